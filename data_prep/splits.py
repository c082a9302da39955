"""One authority on who is in which split, for the sets that share the images of MIMIC-CXR.

MS-CXR and Chest ImaGenome annotate images of MIMIC-CXR and come with splits of their own, which do not agree with
MIMIC-CXR's: a patient of the one's test split is in the other's training split. So their own splits never count;
MIMIC-CXR's official file decides for all of them, by patient, and where a set says otherwise is counted.
"""

from collections.abc import Mapping
from pathlib import Path

from data_prep.problems import Problems, RefusedData
from data_prep.readers import tables

FILE = "mimic-cxr-2.0.0-split.csv"
NAMES = {"train": "train", "validate": "val", "val": "val", "valid": "val", "test": "test"}
"""What published files call the splits -> what `Sample.split` calls them."""


def read_mimic_splits(path: Path, problems: Problems) -> Mapping[str, str]:
    """Subject id -> split, from MIMIC-CXR-JPG's `mimic-cxr-2.0.0-split.csv` (dicom_id, study_id, subject_id, split).

    Raises:
        UsageError: if the file cannot be read or lacks a column.
        RefusedData: if a patient is in two splits, or a split has a name that MIMIC-CXR does not use.
    """
    splits: dict[str, str] = {}
    for subject, named in tables.rows(path, ("subject_id", "split"), problems):
        split = NAMES.get(named)
        if split is None:
            raise RefusedData(f"{path}: split {named!r} of subject {subject} is none of train, validate and test")
        if splits.setdefault(subject, split) != split:
            raise RefusedData(
                f"{path}: subject {subject} is in two splits, {splits[subject]} and {split}; with patients in several "
                f"splits no result can be trusted, so get the official file again"
            )
    return splits


class Authority:
    """Gives each patient's split, and counts where other files disagree.

    Args:
        splits: subject id -> split.
        path: where they come from, for messages.
        problems: gets patients without a split, and disagreements (as a note).
    """

    def __init__(self, splits: Mapping[str, str], path: Path, problems: Problems) -> None:
        self._splits, self._path, self._problems = splits, path, problems

    def split(self, subject: str, where: str, own: str | None = None) -> str | None:
        """The split of a patient, or None (a problem) if the official file does not have the patient.

        Args:
            subject: the patient's subject_id.
            where: what it is asked for, for the list of problems.
            own: what the data set itself says, if it says anything.
        """
        split = self._splits.get(subject)
        if split is None:
            self._problems.add("no_split", where, f"subject {subject} is not in {self._path}; not used")
        elif own is not None and own != split:
            self._problems.notes[f"in {own} by their own file, in {split} by MIMIC-CXR's, which is followed"] += 1
        return split
