"""The Indiana University chest X-ray collection (OpenI, IU-Xray): reports.

Files, as the National Library of Medicine publishes them (https://openi.nlm.nih.gov/faq, "collection"): the archive
NLMCXR_reports.tgz with ecgen-radiology/<n>.xml, one per study, and NLMCXR_png.tgz with the images. Of an XML file are
read: uId/@id; Abstract/AbstractText with the labels FINDINGS and IMPRESSION; parentImage/@id, the names of the images
without ".png". Reports are read from the archive as it is, or from the folder that it was unpacked to.

Or, as "Chest X-rays (Indiana University)" on Kaggle has them: indiana_reports.csv (uid, findings, impression and
others), indiana_projections.csv (uid, filename, projection: Frontal or Lateral) and images/images_normalized/.

The XML files do not say which image is the frontal one, and the first often is the lateral one: give the projections
file of the other edition too, or ask for all views. Names, dates and at times whole words are masked as XXXX; how many
is told. There is no patient id and no official split, so each study counts as a patient of its own.

Licence: CC BY-NC-ND 4.0, stated in each file. Counts: 3,955 reports and 7,470 images at NLM.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring
from tqdm import tqdm

from data_prep.options import shares
from data_prep.problems import Problems
from data_prep.readers import images, pictures, tables
from data_prep.readers.sections import SECTIONS, Sections, choose
from data_prep.readers.tars import files
from data_prep.registry import data_set
from data_prep.sample import SPLITS, Sample, split_of
from reward_fns.errors import UsageError

_LARGEST = 2**20  # bytes of one XML file; the real ones have about 5,000
_Views = dict[str, tuple[str, str]]  # image, named as `_key` does -> frontal or lateral, and its file name on Kaggle
_UNKNOWN = ("", "")
_MASKED = re.compile(r"X{4,}")


@dataclass
class _Study:
    """One report and the file names of its images."""

    uid: str
    findings: str
    impression: str
    images: list[str] = field(default_factory=list)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """OpenI's own options."""
    parser.add_argument(
        "--reports", type=Path, required=True, help="NLMCXR_reports.tgz, its unpacked folder, or indiana_reports.csv"
    )
    parser.add_argument("--images", type=Path, help="folder of the images (or else --text-only)")
    parser.add_argument("--projections", type=Path, help="indiana_projections.csv; looked for beside the reports")
    parser.add_argument("--views", choices=("frontal", "all"), default="frontal", help="which images are used")
    parser.add_argument("--section", choices=SECTIONS, default="findings", help="the part of a report asked for")
    parser.add_argument("--per", choices=("study", "image"), default="study", help="one row per study or per image")
    parser.add_argument(
        "--text-only", action="store_true", help="rows without image, for report filters and text scorers only"
    )
    split = parser.add_mutually_exclusive_group()
    split.add_argument("--split", choices=SPLITS, help="the split that all studies go to")
    split.add_argument("--split-by-hash", type=shares, default="0.8,0.1,0.1", help="shares of studies, train,val,test")
    images.add_arguments(parser)


@data_set(
    "openi",
    summary="reports of the Indiana University collection (OpenI, IU-Xray)",
    example="python -m data_prep openi --reports NLMCXR_reports.tgz --images NLMCXR_png "
    "--projections indiana_projections.csv --out data/openi",
    arguments=add_arguments,
    expected={"reports (NLM)": 3955, "images (NLM)": 7470},
)
def samples(options: argparse.Namespace, problems: Problems) -> Iterator[Sample]:
    """One report sample per study or image; whatever cannot be used goes to `problems`.

    Raises:
        UsageError: a file, folder or column is missing, or nothing says which images are frontal.
        RefusedData: the archive or a CSV file is damaged.
    """
    if options.text_only == bool(options.images):
        raise UsageError("give the folder of the images with --images, or else --text-only for rows without image")
    if options.images and not options.images.is_dir():
        raise UsageError(f"--images {options.images} is not a folder; give the one that holds the images")
    kaggle = options.reports.suffix == ".csv"
    views = {} if options.text_only else _views(options, kaggle, problems)
    studies = _kaggle(options.reports, views, problems) if kaggle else _nlm(options.reports, problems)
    wanted = _wanted(tqdm(studies, unit="report", disable=None), options, problems)
    if options.text_only:
        for study, kind, report in wanted:
            yield _sample(study, kind, report, "", None, 0, 0, options)
        return
    placed = _placed(wanted, views, options, problems)
    for (study, kind, report, name), (picture, width, height) in pictures.read(placed, options, problems):
        yield _sample(study, kind, report, name, picture, width, height, options)


def _sample(
    study: _Study,
    kind: str,
    report: str,
    name: str,
    picture: Path | bytes | None,
    width: int,
    height: int,
    options: argparse.Namespace,
) -> Sample:
    uid = f"CXR{study.uid}"
    return Sample(
        id=uid if options.per == "study" or not name else f"{uid}-{name}",
        patient_id=uid,
        split=options.split or split_of(uid, options.split_by_hash, salt="openi"),
        dataset="openi",
        task="report",
        image=picture,
        width=width,
        height=height,
        report=report,
        kind=kind,
    )


def _wanted(
    studies: Iterable[_Study], options: argparse.Namespace, problems: Problems
) -> Iterator[tuple[_Study, str, str]]:
    """The studies that have the part of the report that is asked for, with its kind and text."""
    for study in studies:
        if not study.findings and not study.impression:
            problems.add("empty_report", f"CXR{study.uid}", "has neither findings nor impression; not used")
            continue
        chosen = choose(Sections(study.findings, study.impression, ""), options.section)
        if chosen is None:
            problems.notes[f"reports without the section asked for ({options.section})"] += 1
            continue
        if masked := len(_MASKED.findall(chosen[1])):
            problems.notes["reports with masked words (XXXX)"] += 1
            problems.notes["masked words (XXXX) in them"] += masked
        yield study, *chosen


def _placed(
    wanted: Iterator[tuple[_Study, str, str]], views: _Views, options: argparse.Namespace, problems: Problems
) -> Iterator[tuple[tuple[_Study, str, str, str], Path]]:
    """The images to use of each study, with their paths."""
    for study, kind, report in wanted:
        names = [
            name for name in study.images if options.views == "all" or views.get(_key(name), _UNKNOWN)[0] == "frontal"
        ]
        if not names:
            problems.notes["studies without image" if not study.images else "studies without a frontal image"] += 1
        for name in names:
            path = pictures.within(options.images, name, f"CXR{study.uid}", problems)
            if path is not None:
                yield (study, kind, report, name.split(".")[0]), path
                if options.per == "study":
                    break


def _key(name: str) -> str:
    """What both editions call an image: CXR1_1_IM-0001-3001.png and 1_IM-0001-3001.dcm.png are the same."""
    return re.sub(r"^CXR\d+_", "", name).split(".")[0]


def _nlm(path: Path, problems: Problems) -> Iterator[_Study]:
    seen: set[str] = set()
    problems.count("reports (NLM)", 0)
    for name, content in files(path, ".xml", _LARGEST, problems):
        problems.count("reports (NLM)")
        try:
            root = fromstring(content)
        except (ParseError, DefusedXmlException, LookupError, ValueError) as error:
            problems.add("bad_xml", name, f"{error}; not used, get it again")
            continue
        identity = root.find("uId")
        uid = "" if identity is None else identity.get("id", "").removeprefix("CXR")
        if not uid:
            problems.add("missing_key", name, "has no uId with an id; not used")
        elif uid in seen:
            problems.add("duplicate_id", name, f"uId CXR{uid} was used before; not used")
        else:
            seen.add(uid)
            images = [f"{image.get('id')}.png" for image in root.iter("parentImage") if image.get("id")]
            problems.count("images (NLM)", len(images))
            yield _Study(uid, _text(root, "FINDINGS"), _text(root, "IMPRESSION"), images)


def _text(root: Element, label: str) -> str:
    parts = ["".join(part.itertext()) for part in root.iter("AbstractText") if part.get("Label") == label]
    return " ".join(" ".join(parts).split())


def _kaggle(path: Path, views: _Views, problems: Problems) -> Iterator[_Study]:
    images: dict[str, list[str]] = {}
    for key, (_, name) in views.items():
        images.setdefault(key.split("_")[0], []).append(name)
    seen: set[str] = set()
    for uid, findings, impression in tables.rows(path, ("uid", "findings", "impression"), problems):
        if not uid.strip():
            problems.add("missing_key", path.name, "a row has no uid; not used")
        elif uid in seen:
            problems.add("duplicate_id", f"{path.name}: uid {uid}", "was used before; not used")
        else:
            seen.add(uid)
            yield _Study(uid, " ".join(findings.split()), " ".join(impression.split()), images.get(uid, []))


def _views(options: argparse.Namespace, kaggle: bool, problems: Problems) -> _Views:
    path = options.projections or options.reports.with_name("indiana_projections.csv")
    if not path.is_file():
        if options.views == "all" and not kaggle:
            return {}
        raise UsageError(
            f"there is no {path}, which says which images are frontal; give it with --projections (it is in the "
            f"edition on Kaggle), or for the XML files use --views all"
        )
    views: _Views = {}
    for uid, name, projection in tables.rows(path, ("uid", "filename", "projection"), problems):
        key, view, where = _key(name), projection.strip().lower(), f"{path.name}: {name}"
        if view not in ("frontal", "lateral"):
            problems.add("unknown_view", where, f"projection {projection!r}; not used")
        elif not key.startswith(f"{uid}_"):
            problems.add("unknown_image", where, f"is no image of uid {uid}; not used")
        elif key in views:
            problems.add("duplicate_id", where, "is listed twice; the first is used")
        else:
            views[key] = view, name
    return views
