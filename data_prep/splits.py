"""One authority on who is in which split, for the sets that share the images of MIMIC-CXR.

MS-CXR and Chest ImaGenome come with splits of their own: a patient of the one's test split is in the other's training
split. MIMIC-CXR's official file decides for all of them, by patient, and where a set says otherwise is counted.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from data_prep.problems import Problems, RefusedData
from data_prep.readers import tables

FILE = "mimic-cxr-2.0.0-split.csv"
NAMES = {"train": "train", "validate": "val", "val": "val", "valid": "val", "test": "test"}
"""What published files call the splits -> what `Sample.split` calls them."""


def read_mimic_splits(path: Path, problems: Problems) -> Mapping[str, str]:
    """Subject id -> split, from MIMIC-CXR-JPG's `mimic-cxr-2.0.0-split.csv` (dicom_id, study_id, subject_id, split).

    UsageError: the file cannot be read or lacks a column. RefusedData: a patient is in two splits, or a split has a
    name that MIMIC-CXR does not use.
    """
    splits: dict[str, str] = {}
    for subject, named in tables.rows(path, ("subject_id", "split"), problems):
        split = NAMES.get(named)
        if split is None:
            raise RefusedData(f"{path}: split {named!r} of subject {subject} is none of train, validate and test")
        if splits.setdefault(subject, split) != split:
            advice = "with patients in several splits no result can be trusted, so get the official file again"
            raise RefusedData(f"{path}: subject {subject} is in two splits, {splits[subject]} and {split}; {advice}")
    return splits


class Authority(NamedTuple):
    """Gives each patient's split, and counts where other files disagree; `path`, of the splits, is for messages."""

    splits: Mapping[str, str]
    path: Path
    problems: Problems

    def split(self, subject: str, where: str, own: str | None = None) -> str | None:
        """The split of a subject_id, None (a problem) if unknown; `own` is what the data set itself says."""
        split = self.splits.get(subject)
        if split is None:
            self.problems.add("no_split", where, f"subject {subject} is not in {self.path}; not used")
        elif own is not None and own != split:
            self.problems.notes[f"in {own} by their own file, in {split} by MIMIC-CXR's, which is followed"] += 1
        return split
