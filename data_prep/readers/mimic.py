"""What the data sets on MIMIC-CXR's images share: options, images, splits and where a file lies.

MIMIC-CXR-JPG 2.1.0 (PhysioNet, credentialed access) has `files/p10/p10000032/s50414267/<dicom_id>.jpg` and beside
`files/` the tables `mimic-cxr-2.0.0-metadata.csv` and `mimic-cxr-2.0.0-split.csv`, each also read as `.csv.gz`. The JPG
keeps the size of the original, which the metadata give as Rows (height) and Columns (width): no image is opened.
"""

import argparse
import re
import sys
from collections.abc import Container, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from data_prep.problems import Problems
from data_prep.readers import tables
from data_prep.readers.patients import mimic_patient
from data_prep.readers.reports import folder
from data_prep.splits import FILE, Authority, read_mimic_splits
from reward_fns.errors import UsageError

_METADATA = "mimic-cxr-2.0.0-metadata.csv"
_COLUMNS = ("dicom_id", "subject_id", "study_id", "ViewPosition", "Rows", "Columns")
_DATES = ("StudyDate", "StudyTime")
_DICOM = r"[0-9a-f]{8}(?:-[0-9a-f]{8}){4}"
# Ids become paths: nothing else may.
_IDS = re.compile(rf"{_DICOM} 1\d{{7}} 5\d{{7}}")
_PATH = re.compile(rf"files/p1\d/p(1\d{{7}})/s(5\d{{7}})/({_DICOM})\.(?:jpg|dcm)")


class Film(NamedTuple):
    """One image of MIMIC-CXR.

    The ids are as in the tables, width and height in pixels; `taken` orders the studies of a patient in time and is 0
    where it is not known.
    """

    dicom: str
    subject: str
    study: str
    view: str
    width: int
    height: int
    taken: float = 0

    @property
    def patient(self) -> str:
        """The patient id in the rows of every set on these images."""
        return mimic_patient(self.subject)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of every set on MIMIC-CXR's images."""
    parser.add_argument("--root", type=Path, required=True, help="folder of MIMIC-CXR-JPG: files/ and the csv tables")
    parser.add_argument("--mimic-splits", type=Path, help=f"MIMIC-CXR's split file (else ROOT/{FILE}, or .gz)")
    parser.add_argument("--check-images", action="store_true", help="list images that are missing (asks the disk)")


class Mimic:
    """The images under `--root`, with the split of each patient, by the options of `add_arguments`.

    Raises:
        UsageError: if the folder or the split file is missing, or the folder holds no film at all.
        RefusedData: if the split file is damaged or has a patient in two splits.
    """

    def __init__(self, options: argparse.Namespace, problems: Problems) -> None:
        root = folder(options.root, "--root", "files/ and the tables of MIMIC-CXR-JPG")
        splits = options.mimic_splits or tables.find(root, FILE, "--mimic-splits")
        self.authority = Authority(read_mimic_splits(splits, problems), splits, problems)
        self._root, self._problems = root.absolute(), problems
        self._check = options.check_images or options.embed  # embedding reads every image
        if next(root.glob("files/p1?/p1*/s5*/*.jpg"), None) is None:
            raise UsageError(f"--root {root} holds no film files/p1./p1......./s5......./<dicom_id>.jpg; download them")

    def films(self, wanted: Container[str] | None = None, *, dated: bool = False) -> Iterator[Film]:
        """The images in the metadata's order, of the dicom_ids in `wanted` or all; `dated` reads when they were taken.

        Raises:
            UsageError: if the metadata are missing.
            RefusedData: if they are damaged.
        """
        seen: set[str] = set()
        metadata = tables.find(self._root, _METADATA, "--root")
        columns = _COLUMNS + (_DATES if dated else ())
        for dicom, subject, study, view, height, width, *date in tables.rows(metadata, columns, self._problems):
            where = f"{metadata.name}: {dicom}"
            if not _IDS.fullmatch(f"{dicom} {subject} {study}"):
                ids = f"dicom_id {dicom!r}, subject_id {subject!r} and study_id {study!r}"
                self._problems.add("bad_id", where, f"{ids} are not all MIMIC-CXR ids")
            elif dicom in seen:
                self._problems.add("duplicate_id", where, "has a row already; this one is not used")
            else:
                seen.add(dicom)
                if wanted is None or dicom in wanted:
                    size = self.size(width, height, where)
                    if size:
                        taken = _moment(*date) if date else 0
                        yield Film(dicom, subject, study, sys.intern(view), *size, taken)

    def size(self, width: str, height: str, where: str) -> tuple[int, int] | None:
        """Width and height as numbers; None, and a problem, if they are not positive whole numbers."""
        try:
            size = int(width), int(height)
        except ValueError:
            size = 0, 0
        if min(size) > 0:
            return size
        wrong = f"width {width!r} and height {height!r} must be positive whole numbers; image not used"
        self._problems.add("bad_size", where, wrong)
        return None

    def path(self, film: Film) -> Path | None:
        """Where the image lies; None, and a problem, if it is missing and `--check-images` or `--embed` was given."""
        name = f"files/p{film.subject[:2]}/p{film.subject}/s{film.study}/{film.dicom}.jpg"
        path = Path(f"{self._root}/{name}")
        if self._check and not path.is_file():
            self._problems.add("missing_image", name, f"not in {self._root}; image not used")
            return None
        return path


def _moment(date: str, time: str) -> float:
    """YYYYMMDD and HHMMSS.fff, without leading zeros, as one number that grows with time; 0 for anything else."""
    with suppress(ValueError):
        day, clock = int(date), float(time)
        if day > 0 and 0 <= clock < 240_000:
            return day * 1e6 + clock
    return 0


def ids(path: str) -> tuple[str, str, str] | None:
    """Subject, study and dicom id from a path in the annotations of MIMIC-CXR's images, or None for any other path.

    >>> ids("files/p10/p10000032/s50414267/0123abcd-0123abcd-0123abcd-0123abcd-0123abcd.jpg")
    ('10000032', '50414267', '0123abcd-0123abcd-0123abcd-0123abcd-0123abcd')
    """
    match = _PATH.fullmatch(path)
    return (match[1], match[2], match[3]) if match else None
