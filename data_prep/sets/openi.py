"""The Indiana University chest X-ray collection (OpenI, IU-Xray): reports.

Files of the National Library of Medicine (https://openi.nlm.nih.gov/faq, "collection"): NLMCXR_reports.tgz, read as it
is or unpacked, with ecgen-radiology/<n>.xml, one per study, and NLMCXR_png.tgz with the images. Of an XML file are
read: uId/@id; Abstract/AbstractText with the labels FINDINGS, IMPRESSION and INDICATION; parentImage/@id, the names of
the images without ".png": CXR10_IM-0002-1001, and CXR1_1_IM-0001-3001 for the two of study 1.

Or "Chest X-rays (Indiana University)" on Kaggle: indiana_reports.csv (uid, findings, impression, indication and
others), indiana_projections.csv (uid, filename such as 10_IM-0002-1001.dcm.png, projection: Frontal or Lateral) and
images/images_normalized/.

The XML files do not say which image is frontal, and the first often is lateral: give the projections file too, or ask
for all views. Names, dates and at times whole words are masked as XXXX and counted. The collection has neither
patient ids nor an official split, so each study counts as a patient of its own.

License: CC BY-NC-ND 4.0, stated in each file. Counts: 3,955 reports and 7,470 images at NLM; 28 reports are empty, and
104 name no image. In the edition on Kaggle, a report whose images are not listed counts as one whose images are lost.
"""

import argparse
import re
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring
from tqdm import tqdm

from data_prep.options import add_options
from data_prep.problems import Problems, RefusedData
from data_prep.readers import pictures, reports, tables
from data_prep.readers.archives import all_files
from data_prep.readers.sections import Sections, line
from data_prep.registry import data_set
from data_prep.sample import Sample
from reward_fns.errors import UsageError

_LARGEST = 2**20  # bytes of one XML file; the real ones have about 5,000
_REPORTS = ("NLMCXR_reports.tgz", "ecgen-radiology", "indiana_reports.csv")
_IMAGES = ("NLMCXR_png", "images/images_normalized", "images_normalized", "images", ".")
_PROJECTIONS = "indiana_projections.csv"
_LOST = "reports whose image is not found"
_NO_UID = "has no uId (XML) or uid (CSV)"
_MASKED = re.compile(r"X{4,}")
_IMAGE = re.compile(r"(?:CXR)?(\d+)_(?:\1_)?(.*)")
_Report = tuple[str, Sections, str, list[str]]  # uid, sections, indication, file names of the images
_Views = dict[str, tuple[str, str]]  # image, named as `_key` does -> frontal or lateral, and its file name on Kaggle


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--root",
        type=Path,
        help="folder with NLM's or Kaggle's files under their published names, instead of --reports and --images",
    )
    parser.add_argument("--reports", type=Path, help="NLMCXR_reports.tgz, its unpacked folder, or indiana_reports.csv")
    parser.add_argument("--images", type=Path, help="folder of the images (or else --text-only)")
    parser.add_argument("--projections", type=Path, help=f"{_PROJECTIONS}; looked for beside the reports")
    parser.add_argument("--views", choices=("frontal", "all"), default="frontal", help="which images are used")
    text_only = "rows without image, for report filters and text scorers only"
    parser.add_argument("--text-only", action="store_true", help=text_only)
    add_options(parser, "reports", "splits", "images")
    parser.set_defaults(split_by_hash="0.8,0.1,0.1")


@data_set(
    "openi",
    summary="reports of the Indiana University collection (OpenI, IU-Xray)",
    example="python -m data_prep openi --reports NLMCXR_reports.tgz --images NLMCXR_png "
    "--projections indiana_projections.csv --out data/openi",
    arguments=add_arguments,
    expected={"reports (NLM)": 3955, "images (NLM)": 7470, _LOST: 0},
    context=("indication", "lateral"),
)
def samples(options: argparse.Namespace, problems: Problems) -> Iterator[Sample]:
    """One report sample per study or image; what cannot be used goes to `problems`."""
    _find_files(options)
    kaggle = options.reports.suffix == ".csv"
    views = {} if options.text_only else _views(options, kaggle, problems)
    records = _kaggle(options.reports, views, problems) if kaggle else _nlm(options.reports, problems)
    studies = _studies(tqdm(records, unit="report", disable=None), views, options, problems)
    if options.text_only:
        return (study.sample("openi", study.id, options, (None, 0, 0)) for study in studies)
    return reports.samples(studies, "openi", options, problems)


def _find_files(options: argparse.Namespace) -> None:
    """Fill in `--reports` and `--images` from `--root`."""
    if options.root:
        root = reports.folder(options.root, "--root", " or ".join(_REPORTS))
        options.reports = options.reports or next((root / name for name in _REPORTS if (root / name).exists()), None)
        if not options.text_only:
            options.images = options.images or next(root / name for name in _IMAGES if (root / name).is_dir())
    if not options.reports:
        raise UsageError(f"give --reports, or by --root a folder with {' or '.join(_REPORTS)}")
    if options.text_only == bool(options.images):
        raise UsageError("give the folder of the images with --images, or else --text-only for rows without image")
    if options.images:
        reports.folder(options.images, "--images", "the images")


def _studies(
    records: Iterable[tuple[str, _Report]], views: _Views, options: argparse.Namespace, problems: Problems
) -> Iterator[reports.Study]:
    """The studies that have the part of the report that is asked for, with the images to use."""
    total, lost, example, kaggle = 0, 0, "", options.reports.suffix == ".csv"
    seen: set[str] = set()
    for where, (uid, sections, indication, names) in records:
        patient = reports.openi_patient(uid)
        if not uid.strip() or uid in seen:
            kind, wrong = ("duplicate_id", f"{patient} was used before") if uid.strip() else ("missing_key", _NO_UID)
            problems.add(kind, where, f"{wrong}; not used")
            continue
        seen.add(uid)
        if not any(sections):
            problems.notes["reports with neither findings nor impression, not used"] += 1
            continue
        chosen = reports.reference(sections, options.section, patient, problems)
        if chosen is None:
            continue
        if masked := len(_MASKED.findall(chosen[1])):
            problems.notes["reports with masked words (XXXX)"] += 1
            problems.notes["masked words (XXXX) in them"] += masked
        films, lateral = [], None
        if not options.text_only:
            projections = {name: views.get(_key(name), ("unlisted", ""))[0] for name in names}
            wanted = [name for name in names if options.views == "all" or projections[name] == "frontal"]
            find = partial(pictures.within, options.images, where=patient, problems=problems)
            paths = islice(filter(None, map(find, wanted)), 1 if options.per == "study" else None)
            films = [(f"{patient}-{path.name.split('.')[0]}", path) for path in paths]
            if films and "lateral" in options.context:
                others = (name for name in names if projections[name] == "lateral" and name != films[0][1].name)
                lateral = next(filter(None, map(find, others)), None)
            if not wanted:
                problems.notes[f"studies without {'a frontal image' if names else 'image'}"] += 1
            if unlisted := sum(view == "unlisted" for view in projections.values() if views):
                problems.notes[f"images that {_PROJECTIONS} does not list"] += unlisted
            total += 1
            if not films and (names or kaggle) and (wanted or "lateral" not in projections.values()):
                lost, example = lost + 1, f"{patient} with images {', '.join(names) or 'none'}"
        split = reports.split(options, patient, salt="openi")
        yield reports.Study(patient, patient, split, *chosen, films, lateral, indication)
    if not options.text_only:
        problems.count(_LOST, lost)
    if lost > total / 10:
        check = f"check that --images is complete, and that {_PROJECTIONS} lists the images of these reports"
        raise RefusedData(f"{lost:,} of {total:,} reports find no image, the last one {example}; {check}")


def _key(name: str) -> str:
    """What both editions call an image.

    >>> [_key(name) for name in ("CXR10_IM-0002-1001.png", "10_IM-0002-1001.dcm.png", "CXR1_1_IM-0001-3001.png")]
    ['10_IM-0002-1001', '10_IM-0002-1001', '1_IM-0001-3001']
    """
    stem = name.split(".")[0]
    match = _IMAGE.fullmatch(stem)
    return f"{match[1]}_{match[2]}" if match else stem


def _nlm(path: Path, problems: Problems) -> Iterator[tuple[str, _Report]]:
    problems.count("reports (NLM)", 0)
    for name, content in all_files(path, ".xml", _LARGEST, problems):
        problems.count("reports (NLM)")
        try:
            root = fromstring(content)
        except (ParseError, DefusedXmlException, LookupError, ValueError) as error:
            problems.add("bad_xml", name, f"{error}; not used, get it again")
            continue
        identity = root.find("uId")
        uid = "" if identity is None else identity.get("id", "").removeprefix("CXR")
        names = [f"{image.get('id')}.png" for image in root.iter("parentImage") if image.get("id")]
        problems.count("images (NLM)", len(names))
        findings, impression, indication = (_text(root, part) for part in ("FINDINGS", "IMPRESSION", "INDICATION"))
        yield name, (uid, Sections(findings, impression), indication, names)


def _text(root: Element, label: str) -> str:
    return line(" ".join("".join(part.itertext()) for part in root.iter("AbstractText") if part.get("Label") == label))


def _kaggle(path: Path, views: _Views, problems: Problems) -> Iterator[tuple[str, _Report]]:
    names: dict[str, list[str]] = {}
    for key, (_, name) in views.items():
        names.setdefault(key.split("_")[0], []).append(name)
    columns = ("uid", "findings", "impression", "indication")
    for uid, findings, impression, indication in tables.rows(path, columns, problems):
        sections = Sections(line(findings), line(impression))
        yield f"{path.name}: uid {uid}", (uid, sections, line(indication), names.get(uid, []))


def _views(options: argparse.Namespace, kaggle: bool, problems: Problems) -> _Views:
    path = options.projections or options.reports.with_name(_PROJECTIONS)
    if not path.is_file():
        if options.views == "all" and not kaggle:
            return {}
        wanted = "give it with --projections (it is in the edition on Kaggle), or for the XML files use --views all"
        raise UsageError(f"{path} is missing, which says which images are frontal; {wanted}")
    views: _Views = {}
    for uid, name, projection in tables.rows(path, ("uid", "filename", "projection"), problems):
        key, view, where = _key(name), projection.strip().lower(), f"{path.name}: {name}"
        if view not in ("frontal", "lateral"):
            problems.add("unknown_view", where, f"projection {projection!r}; not used")
        elif not key.startswith(f"{uid}_"):
            problems.add("unknown_image", where, f"not an image of uid {uid}; not used")
        elif key in views:
            problems.add("duplicate_id", where, "is listed twice; the first is used")
        else:
            views[key] = view, name
    return views
