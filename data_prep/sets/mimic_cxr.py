"""MIMIC-CXR: reports of chest films, one row per study or per image.

Files: MIMIC-CXR-JPG 2.1.0 (https://physionet.org/content/mimic-cxr-jpg/2.1.0/), see `readers/mimic.py`, and the
reports, which are in another project, MIMIC-CXR 2.1.0 (https://physionet.org/content/mimic-cxr/2.1.0/), see
`readers/mimic_reports.py`. Of the tables, these are read: metadata (dicom_id, subject_id, study_id, ViewPosition,
Rows, Columns) and split (subject_id, split; "validate" is our "val").

Licence: PhysioNet Credentialed Health Data License 1.5.0: training, a signed agreement, and no handing on, also not
to a language model's API that the agreement does not cover.

Counts: 377,110 images of 227,835 studies of 65,379 patients. About two studies in three have findings. The split is
the official one, by patient; its test patients were not drawn at random, so scores on them can't be compared with
validation.

A study has one report and often several films. Per study, its first PA film is taken, else its first AP film, in the
order of dicom_id; per image, each frontal film asks for the same report.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from data_prep.problems import Problems
from data_prep.readers.mimic import Film, Mimic
from data_prep.readers.mimic import add_arguments as mimic_arguments
from data_prep.readers.mimic_reports import reports
from data_prep.readers.sections import SECTIONS, choose
from data_prep.registry import data_set
from data_prep.sample import Sample

_FRONTAL = ("PA", "AP")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of MIMIC-CXR."""
    mimic_arguments(parser)
    parser.add_argument(
        "--reports", type=Path, required=True, help="mimic-cxr-reports.zip, its folder, or mimic_cxr_sectioned.csv"
    )
    parser.add_argument(
        "--section", choices=SECTIONS, default="findings", help="the part of a report that is asked for"
    )
    parser.add_argument("--per", choices=("study", "image"), default="study", help="one row per study or per image")
    parser.add_argument("--views", nargs="+", default=list(_FRONTAL), metavar="VIEW", help="ViewPositions, best first")


@data_set(
    "mimic_cxr",
    summary="reports of MIMIC-CXR (JPG 2.1.0 and reports)",
    example="python -m data_prep mimic_cxr --root mimic-cxr-jpg/2.1.0 --reports mimic-cxr-reports.zip --out data/mimic",
    arguments=add_arguments,
    expected={"images": 377_110, "studies": 227_835, "patients": 65_379},
)
def samples(options: argparse.Namespace, problems: Problems) -> Iterator[Sample]:
    """One report sample per study or image; whatever cannot be used goes to `problems`.

    Raises:
        UsageError: if a folder, a file or a column is missing.
        RefusedData: if a file is damaged or a patient is in two splits.
    """
    mimic = Mimic(options, problems)
    films = _films(mimic, options, problems)
    subjects = {study: of_study[0].subject for study, of_study in films.items()}
    for study, sections in tqdm(
        reports(options.reports, subjects, problems), total=len(subjects), unit="study", disable=None
    ):
        chosen = choose(sections, options.section)
        if chosen is None:
            problems.notes[f"reports without the section asked for ({options.section})"] += 1
            continue
        split = mimic.authority.split(subjects[study], f"s{study}")
        if split is None:
            continue
        kind, report = chosen
        for film in films[study]:
            path = mimic.path(film)
            if path is not None:
                yield Sample(
                    id=f"s{study}" if options.per == "study" else f"s{study}-{film.dicom}",
                    patient_id=film.patient,
                    split=split,
                    dataset="mimic_cxr",
                    task="report",
                    image=path,
                    width=film.width,
                    height=film.height,
                    report=report,
                    kind=kind,
                )


def _films(mimic: Mimic, options: argparse.Namespace, problems: Problems) -> dict[str, list[Film]]:
    """The films to use of each study that has any, best first."""
    ranks = {view: rank for rank, view in enumerate(options.views)}
    found: dict[str, list[Film]] = {}
    subjects: dict[str, str] = {}
    for film in mimic.films():
        problems.count("images")
        subject = subjects.setdefault(film.study, film.subject)
        if subject != film.subject:
            told = f"study {film.study} is of subject {film.subject} here and of {subject} elsewhere; study not used"
            problems.add("two_patients", film.dicom, told)
            subjects[film.study] = ""
        elif film.view in ranks:
            found.setdefault(film.study, []).append(film)
    problems.count("studies", len(subjects))
    problems.count("patients", len(set(subjects.values()) - {""}))
    for study, of_study in list(found.items()):
        of_study.sort(key=lambda film: (ranks[film.view], film.dicom))
        if not subjects[study]:
            del found[study]
        elif options.per == "study":
            del of_study[1:]
    if without := sum(bool(subject) for subject in subjects.values()) - len(found):
        problems.notes[f"studies without a film of view {' or '.join(options.views)}"] += without
    return found
