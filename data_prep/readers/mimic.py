"""What the data sets on MIMIC-CXR's images share: options, images, splits and where a file lies.

MIMIC-CXR-JPG 2.1.0 (PhysioNet, credentialed access) has `files/p10/p10000032/s50414267/<dicom_id>.jpg` and beside
`files/` the tables `mimic-cxr-2.0.0-metadata.csv` and `mimic-cxr-2.0.0-split.csv`, each also read as `.csv.gz`. The JPG
keeps the size of the original, which the metadata give as Rows (height) and Columns (width): no image is opened.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Container, Iterator
from pathlib import Path
from typing import NamedTuple

from data_prep.problems import Problems
from data_prep.readers import tables
from data_prep.splits import FILE, Authority, read_mimic_splits
from reward_fns.errors import UsageError

_METADATA = "mimic-cxr-2.0.0-metadata.csv"
_COLUMNS = ("dicom_id", "subject_id", "study_id", "ViewPosition", "Rows", "Columns")
_DICOM = r"[0-9a-f]{8}(?:-[0-9a-f]{8}){4}"
# Ids become paths: nothing else may.
_IDS = re.compile(rf"{_DICOM} 1\d{{7}} 5\d{{7}}")
_PATH = re.compile(rf"files/p1\d/p(1\d{{7}})/s(5\d{{7}})/({_DICOM})\.(?:jpg|dcm)")


class Film(NamedTuple):
    """One image of MIMIC-CXR: its ids as the tables have them, its view, and its size in pixels."""

    dicom: str
    subject: str
    study: str
    view: str
    width: int
    height: int

    @property
    def patient(self) -> str:
        """The name of the patient's folder: the patient id in the rows of every set on these images."""
        return f"p{self.subject}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of every set on MIMIC-CXR's images."""
    parser.add_argument("--root", type=Path, required=True, help="folder of MIMIC-CXR-JPG: files/ and the csv tables")
    parser.add_argument("--mimic-splits", type=Path, help=f"MIMIC-CXR's split file (else ROOT/{FILE}, or .gz)")
    parser.add_argument("--check-images", action="store_true", help="list images that are not there (asks the disk)")


class Mimic:
    """The images under `--root`, with the split of each patient.

    Args:
        options: with the options of `add_arguments`.
        problems: gets whatever is wrong.

    Raises:
        UsageError: if the folder or the split file is missing.
        RefusedData: if the split file is damaged or has a patient in two splits.
    """

    def __init__(self, options: argparse.Namespace, problems: Problems) -> None:
        if not options.root.is_dir():
            raise UsageError(f"--root {options.root} is not a folder; give the one of MIMIC-CXR-JPG, with files/ in it")
        splits = options.mimic_splits or tables.find(options.root, FILE, "--mimic-splits")
        self.authority = Authority(read_mimic_splits(splits, problems), splits, problems)
        self._root, self._check, self._problems = options.root.absolute(), options.check_images, problems

    def films(self, wanted: Container[str] | None = None) -> Iterator[Film]:
        """The images in the metadata's order; of those in `wanted` only, by dicom_id, where it is given.

        Raises:
            UsageError: if the metadata are missing.
            RefusedData: if they are damaged.
        """
        seen: set[str] = set()
        metadata = tables.find(self._root, _METADATA, "--root")
        for dicom, subject, study, view, rows, columns in tables.rows(metadata, _COLUMNS, self._problems):
            where = f"{metadata.name}: {dicom}"
            if not _IDS.fullmatch(f"{dicom} {subject} {study}"):
                told = f"dicom_id {dicom!r}, subject_id {subject!r} and study_id {study!r} are not all MIMIC-CXR ids"
                self._problems.add("bad_id", where, told)
            elif dicom in seen:
                self._problems.add("duplicate_id", where, "has a row already; this one is not used")
            else:
                seen.add(dicom)
                if wanted is None or dicom in wanted:
                    size = self.size(columns, rows, where)
                    if size:
                        yield Film(dicom, subject, study, sys.intern(view), *size)

    def size(self, width: str, height: str, where: str) -> tuple[int, int] | None:
        """Width and height as numbers; None, and a problem, if they are none."""
        try:
            size = int(width), int(height)
        except ValueError:
            size = 0, 0
        if min(size) > 0:
            return size
        told = f"width {width!r} and height {height!r} must be positive whole numbers; image not used"
        self._problems.add("bad_size", where, told)
        return None

    def path(self, film: Film) -> Path | None:
        """Where the image lies; None, and a problem, if it is not there and `--check-images` asks for that."""
        folder = f"files/p{film.subject[:2]}/p{film.subject}/s{film.study}"
        path = Path(f"{self._root}/{folder}/{film.dicom}.jpg")
        if self._check and not path.is_file():
            self._problems.add("missing_image", f"{folder}/{film.dicom}.jpg", f"not in {self._root}; image not used")
            return None
        return path


def ids(path: str) -> tuple[str, str, str] | None:
    """Subject, study and dicom id from a path as annotations of MIMIC-CXR's images give it, or None if it is none.

    >>> ids("files/p10/p10000032/s50414267/0123abcd-0123abcd-0123abcd-0123abcd-0123abcd.jpg")
    ('10000032', '50414267', '0123abcd-0123abcd-0123abcd-0123abcd-0123abcd')
    """
    match = _PATH.fullmatch(path)
    return (match[1], match[2], match[3]) if match else None
