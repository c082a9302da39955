"""What the data sets on MIMIC-CXR's images share: options, images, splits, where a file lies, and the reports.

MIMIC-CXR-JPG 2.1.0 has `files/p10/p10000032/s50414267/<dicom_id>.jpg` and the tables `mimic-cxr-2.0.0-metadata.csv`
and `mimic-cxr-2.0.0-split.csv`, or `.csv.gz`. The metadata give each JPG's size, so no image is opened. Reports come
from `mimic-cxr-reports.zip`, also packed anew, because a report is found by `p10000032/s50414267.txt`; from the folder
that it unpacks to (slower); or from `mimic_cxr_sectioned.csv` (`.gz`), which the official scripts make. That one leaves
out the 54 studies of `sections.IRREGULAR`, so they are left out everywhere.
"""

import argparse
import re
import sys
from collections.abc import Container, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from data_prep.problems import Problems, RefusedData
from data_prep.readers import tables
from data_prep.readers.archives import Reader, Unreadable, folder_text, zip_texts
from data_prep.readers.reports import folder, mimic_patient
from data_prep.readers.sections import IRREGULAR, Sections, line, parse
from data_prep.sample import stable_hash
from data_prep.selection import FILE, Authority, read_mimic_splits
from reward_fns.errors import UsageError

_METADATA = "mimic-cxr-2.0.0-metadata.csv"
_COLUMNS = ("dicom_id", "subject_id", "study_id", "ViewPosition", "Rows", "Columns")
_DATES = ("StudyDate", "StudyTime")
_DICOM = r"[0-9a-f]{8}(?:-[0-9a-f]{8}){4}"
# Ids become paths: nothing else may.
_IDS = re.compile(rf"{_DICOM} 1\d{{7}} 5\d{{7}}")
_PATH = re.compile(rf"files/p1\d/p(1\d{{7}})/s(5\d{{7}})/({_DICOM})\.(?:jpg|dcm)")
# Images that are looked for on disk: the first ones, and one in `_EVERY` of the others; some 400 of all of MIMIC-CXR.
_FIRST, _EVERY = 200, 1000
_CHECKED = 20  # after so many, it is asked whether most are missing, so that a run without images ends soon
_LARGEST = 1 << 20  # bytes of a report; they have about a thousand
_END = len("p10000032/s50414267.txt")
_SECTIONED = ("study", "findings", "impression", "last_paragraph")

Reports = Iterator[tuple[str, Sections, str]]


class Film(NamedTuple):
    """One image: ids as in the tables, pixels."""

    dicom: str
    subject: str
    study: str
    view: str
    width: int
    height: int
    taken: float = 0  # orders a patient's studies in time, 0 where it is not known

    @property
    def patient(self) -> str:
        """The patient id in the rows of every set on these images."""
        return mimic_patient(self.subject)


class Mimic:
    """The images under `--root`, with the split of each patient, by the options `mimic`."""

    def __init__(self, options: argparse.Namespace, problems: Problems) -> None:
        root = folder(options.root, "--root", "files/ and the tables of MIMIC-CXR-JPG")
        splits = options.mimic_splits or tables.find(root, FILE, "--mimic-splits")
        self.authority = Authority(read_mimic_splits(splits, problems), splits, problems)
        self._root, self._problems = root.absolute(), problems
        self._check = options.check_images or options.embed  # embedding reads every image
        self._asked = self._looked = self._missing = 0
        if next(root.glob("files/p1?/p1*/s5*/*.jpg"), None) is None:
            raise UsageError(f"--root {root} holds no film files/p1./p1......./s5......./<dicom_id>.jpg; download them")

    def films(self, wanted: Container[str] | None = None, *, dated: bool = False) -> Iterator[Film]:
        """The images in the metadata's order, of these dicom_ids or all; `dated` reads when they were taken."""
        seen: set[str] = set()
        metadata = tables.find(self._root, _METADATA, "--root")
        columns = _COLUMNS + (_DATES if dated else ())
        for dicom, subject, study, view, height, width, *date in tables.rows(metadata, columns, self._problems):
            where = f"{metadata.name}: {dicom}"
            if not _IDS.fullmatch(f"{dicom} {subject} {study}"):
                named = f"dicom_id {dicom!r}, subject_id {subject!r} and study_id {study!r}"
                self._problems.add("bad_id", where, f"{named} are not all MIMIC-CXR ids")
            elif dicom in seen:
                self._problems.add("duplicate_id", where, "has a row already; this one is not used")
            else:
                seen.add(dicom)
                if (wanted is None or dicom in wanted) and (size := self.size(width, height, where)):
                    yield Film(dicom, subject, study, sys.intern(view), *size, _moment(*date) if date else 0)

    def size(self, width: str, height: str, where: str) -> tuple[int, int] | None:
        """Width and height as numbers; None, and a problem, if they are not positive whole numbers."""
        with suppress(ValueError):
            if min(size := (int(width), int(height))) > 0:
                return size
        wrong = f"width {width!r} and height {height!r} must be positive whole numbers; image not used"
        self._problems.add("bad_size", where, wrong)
        return None

    def path(self, film: Film) -> Path | None:
        """Where the image lies; None, and a problem, if it is missing and `--check-images` or `--embed` was given.

        Else a sample of the images is looked for on disk, see `refuse_missing`.
        """
        name = f"files/p{film.subject[:2]}/p{film.subject}/s{film.study}/{film.dicom}.jpg"
        path = Path(f"{self._root}/{name}")
        if self._check and not path.is_file():
            self._problems.add("missing_image", name, f"not in {self._root}; image not used")
            return None
        self._asked += 1
        if not self._check and (self._asked <= _FIRST or stable_hash(film.dicom) % _EVERY == 0):
            self._looked += 1
            self._missing += not path.is_file()
            if self._looked % _CHECKED == 0:
                self.refuse_missing()
        return path

    def refuse_missing(self) -> None:
        """Raise RefusedData if most images of the sample are missing; to be called once all were asked for."""
        if self._missing > self._looked / 2:
            fact = f"{self._missing:,} of {self._looked:,} images that were looked for are not in {self._root}/files"
            raise RefusedData(f"{fact}; download them, or list and leave out what is missing with --check-images")


def _moment(date: str, time: str) -> float:
    """YYYYMMDD and HHMMSS.fff, without leading zeros, as one number that grows with time; 0 for anything else."""
    with suppress(ValueError):
        day, clock = int(date), float(time)
        if day > 0 and 0 <= clock < 240_000:
            return day * 1e6 + clock
    return 0


def ids(path: str) -> tuple[str, str, str] | None:
    """Subject, study and dicom id from a path in annotations, None for any other path."""
    match = _PATH.fullmatch(path)
    return (match[1], match[2], match[3]) if match else None


def is_table(source: Path) -> bool:
    """Whether the reports come from the section file: in its own order, and without indications."""
    return source.name.endswith((".csv", ".csv.gz"))


def reports(source: Path, wanted: Mapping[str, str], problems: Problems) -> Reports:
    """Id, sections and text ("" in a CSV) of each study of `wanted` (study -> subject), in its or the CSV's order."""
    regular = {study: subject for study, subject in wanted.items() if study not in IRREGULAR}
    if left_out := len(wanted) - len(regular):
        problems.notes["studies without regular sections, which the official rules leave out"] += left_out
    if source.is_dir():
        base = source if (source / "files").is_dir() else source.parent
        if source.name != "files" and base != source:
            raise UsageError(f"--reports {source} has no folder 'files' with p10 to p19 in it; give the one that does")
        problems.source(base / "files", "*/*/s*.txt")
        yield from _parsed(source, partial(folder_text, base, _LARGEST), regular, problems)
    elif not source.is_file():
        raise UsageError(f"--reports {source} is missing; give mimic-cxr-reports.zip, its folder or the sectioned csv")
    elif source.suffix == ".zip":
        with zip_texts(source, problems, _LARGEST) as (entries, read):
            names = {name[-_END:]: name for name in reversed(entries)}
            yield from _parsed(source, lambda name: read(names.get(name[-_END:], name)), regular, problems)
    elif is_table(source):
        yield from _from_table(source, regular, problems)
    else:
        raise UsageError(f"--reports {source} is neither a folder nor a .zip, .csv or .csv.gz file")


def _parsed(source: Path, read: Reader, wanted: Mapping[str, str], problems: Problems) -> Reports:
    missing = []
    for study, subject in wanted.items():
        name = f"files/p{subject[:2]}/p{subject}/s{study}.txt"
        try:
            if (content := read(name)) is None:
                missing.append(name)
            else:
                text = content.decode("utf-8-sig").replace("\r\n", "\n")
                yield study, parse(text), text
        except (Unreadable, UnicodeDecodeError) as error:
            problems.add("unreadable_report", name, f"{error}; study not used")
    _list_missing(source, missing, len(wanted), problems)


def _from_table(source: Path, wanted: Mapping[str, str], problems: Problems) -> Reports:
    seen: set[str] = set()
    for name, findings, impression, last_paragraph in tables.rows(source, _SECTIONED, problems):
        study = name.removeprefix("s")
        if study in seen:
            problems.add("duplicate_id", f"{source.name}: {name}", "has a row already; this one is not used")
        elif study in wanted:
            seen.add(study)
            yield study, Sections(line(findings), line(impression), line(last_paragraph)), ""
    _list_missing(source, [f"s{study}" for study in sorted(wanted.keys() - seen)], len(wanted), problems)


def _list_missing(source: Path, missing: list[str], wanted: int, problems: Problems) -> None:
    if missing and len(missing) == wanted:
        raise RefusedData(f"--reports {source} has none of the {wanted:,} reports, e.g. {missing[0]}; give MIMIC-CXR's")
    for name in missing:
        problems.add("missing_report", name, f"not in {source}; study not used")
