"""MIMIC-CXR: reports of chest films, one row per study or per image.

Files: MIMIC-CXR-JPG 2.1.0 (https://physionet.org/content/mimic-cxr-jpg/2.1.0/) and the reports, from MIMIC-CXR 2.1.0
(https://physionet.org/content/mimic-cxr/2.1.0/); see `readers/mimic.py`. Read are metadata (dicom_id, subject_id,
study_id, ViewPosition, Rows, Columns; for previous reports StudyDate, StudyTime) and split (subject_id, split;
"validate" is our "val").

License: PhysioNet Credentialed Health Data License 1.5.0: training, a signed agreement, and no handing on, also not
to a language model's API that the agreement does not cover.

Counts: 377,110 images of 227,835 studies of 65,379 patients. About two studies in three have findings. The split is
the official one, by patient; test patients were not drawn at random: don't compare their scores with validation.

Per study, its first PA film is taken, else its first AP film, in the order of dicom_id; per image, each frontal film
asks for the same report. About 6 % of the images have a blank ViewPosition: `--views PA AP UNKNOWN` takes them too.
"""

import argparse
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from data_prep.options import add_options
from data_prep.problems import Problems
from data_prep.readers import mimic, reports
from data_prep.readers.sections import Sections, indication, whole
from data_prep.registry import data_set
from data_prep.sample import Sample
from reward_fns.errors import UsageError

_Report = tuple[str, Sections, str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, "mimic", "reports")
    archive = "mimic-cxr-reports.zip, its folder, or mimic_cxr_sectioned.csv"
    parser.add_argument("--reports", type=Path, required=True, help=archive)
    views = "ViewPositions, best first; UNKNOWN for a blank one"
    parser.add_argument("--views", nargs="+", default=["PA", "AP"], metavar="VIEW", help=views)


@data_set(
    "mimic_cxr",
    summary="reports of MIMIC-CXR (JPG 2.1.0 and reports)",
    example="python -m data_prep mimic_cxr --root mimic-cxr-jpg/2.1.0 --reports mimic-cxr-reports.zip --out data/mimic",
    arguments=add_arguments,
    expected={"images": 377_110, "studies": 227_835, "patients": 65_379},
    context=("indication", "prior", "lateral"),
)
def samples(options: argparse.Namespace, problems: Problems) -> Iterator[Sample]:
    """One report sample per study or image; what cannot be used goes to `problems`."""
    if mimic.is_table(options.reports) and {"indication", "prior"} & set(options.context):
        raise UsageError("--context indication and prior need the reports themselves: --reports mimic-cxr-reports.zip")
    images = mimic.Mimic(options, problems)
    studies = _studies(images, options, problems)
    names = [study for study, entry in studies.items() if entry.films]
    if "prior" in options.context:
        names = sorted(studies, key=lambda study: (studies[study].subject, studies[study].taken))
    texts = mimic.reports(options.reports, {study: studies[study].subject for study in names}, problems)
    bar = tqdm(texts, total=len(names), unit="study", disable=None)
    for study, sections, text, prior in _with_priors(bar, studies):
        entry, name = studies[study], f"s{study}"
        chosen = reports.reference(sections, options.section, name, problems) if entry.films else None
        split = images.authority.split(entry.subject, name) if chosen else None
        if chosen is None or split is None:
            continue
        lateral = images.path(entry.lateral) if entry.lateral else None
        record = reports.Study(name, entry.films[0].patient, split, *chosen, indication=indication(text), prior=prior)
        for film in entry.films:
            if path := images.path(film):
                identity = name if options.per == "study" else f"{name}-{film.dicom}"
                yield record.sample("mimic_cxr", identity, options, (path, film.width, film.height), lateral)
    images.refuse_missing()


@dataclass(slots=True)
class _Entry:
    """The films of a study to use, best first; its lateral view, where wanted; and when its first film was taken."""

    subject: str
    films: list[mimic.Film] = field(default_factory=list)
    lateral: mimic.Film | None = None
    taken: float = 0


def _studies(images: mimic.Mimic, options: argparse.Namespace, problems: Problems) -> dict[str, _Entry]:
    """Every study of one patient."""
    ranks = {"" if view == "UNKNOWN" else view: rank for rank, view in enumerate(options.views)}
    lateral = "lateral" in options.context
    studies: dict[str, _Entry] = {}
    two_patients = set()
    for film in images.films(dated="prior" in options.context):
        problems.count("images")
        entry = studies.setdefault(film.study, _Entry(film.subject, taken=film.taken))
        entry.taken = min(entry.taken, film.taken)
        if entry.subject != film.subject:
            both = f"study {film.study} is of subject {film.subject} here and of {entry.subject} elsewhere; not used"
            problems.add("two_patients", film.dicom, both)
            two_patients.add(film.study)
        elif film.view in ranks:
            entry.films.append(film)
        elif not film.view:
            problems.notes["images with a blank ViewPosition, not used (--views PA AP UNKNOWN uses them)"] += 1
        elif lateral and film.view in ("LATERAL", "LL") and (entry.lateral is None or film.dicom < entry.lateral.dicom):
            entry.lateral = film
    problems.count("studies", len(studies))
    problems.count("patients", len({entry.subject for name, entry in studies.items() if name not in two_patients}))
    for study in two_patients:
        del studies[study]
    for entry in studies.values():
        entry.films.sort(key=lambda film: (ranks[film.view], film.dicom))
        if options.per == "study":
            del entry.films[1:]
    if without := sum(not entry.films for entry in studies.values()):
        problems.notes[f"studies without a film of view {' or '.join(options.views)}"] += without
    return studies


def _with_priors(texts: Iterable[_Report], studies: Mapping[str, _Entry]) -> Iterator[tuple[str, Sections, str, str]]:
    """The reports, in order of patient and time, each with that of the latest study before it whose date is known."""
    subject, earlier = "", [(0.0, "")]
    for study, sections, text in texts:
        entry = studies[study]
        if entry.subject != subject:
            subject, earlier = entry.subject, []
        prior = next((report for taken, report in reversed(earlier) if taken < entry.taken), "")
        if entry.taken and (report := whole(sections)):
            earlier.append((entry.taken, report))
        yield study, sections, text, prior
