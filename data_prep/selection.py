"""Which samples of a data set are written, and to which split: published splits, and balance of the training split.

MS-CXR and Chest ImaGenome come with splits of their own: a patient of the one's test split is in the other's training
split. MIMIC-CXR's official file decides for all of them, by patient, and where a set says otherwise is counted.
"""

import argparse
import pickle
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.problems import Problems, RefusedData
from data_prep.readers import jsons, tables
from data_prep.sample import Sample, stable_hash
from reward_fns.errors import UsageError

FILE = "mimic-cxr-2.0.0-split.csv"
NAMES = {"train": "train", "validate": "val", "val": "val", "valid": "val", "test": "test"}
"""What published files call the splits -> what `Sample.split` calls them."""
_ID_COLUMNS = ("id", "sample_id", "study_id", "study", "image_id", "dicom_id", "uid", "patient_id", "subject_id")
_PARTS = re.compile(r"[^A-Za-z0-9]")
_NORMAL = re.compile(r"\b(?:no|not|without|normal|unremarkable|clear|intact|negative|free|within (?:normal )?limits)\b")
_BUT = re.compile(r"\b(?:but|except|however|although|other than|apart from)\b")
_TEST_FIRST = ("test", "val", "train")


def select(
    samples: Iterable[Sample], options: argparse.Namespace, problems: Problems, folder: Path
) -> Iterator[Sample]:
    """The samples to write, in the same order, with their splits; notes how many were moved or left out.

    All samples wait in a temporary file in `folder` while the first pass counts. Raises as `SplitFile`.
    """
    if not (options.split_file or options.per_label or options.max_normal is not None):
        yield from samples
        return
    splits = SplitFile(options.split_file, problems) if options.split_file else None
    with tempfile.TemporaryFile(dir=folder) as file:
        kinds = []
        for sample in samples:
            pickle.dump(sample, file)
            rank = stable_hash(f"{options.balance_seed}/{sample.id}")
            kinds.append((sample.patient_id, sample.split, *_kind(sample), rank))
            if splits:
                splits.see(sample)
        moved = splits.decide(problems) if splits else {}
        training = [
            (rank, number, label, normal)
            for number, (patient, split, label, normal, rank) in enumerate(kinds)
            if moved.get(patient, split) == "train"
        ]
        left_out = _left_out(sorted(training), options, problems)
        file.seek(0)
        for number, (patient, split, *_) in enumerate(kinds):
            sample = pickle.load(file)
            new = moved.get(patient, split)
            if new != split:
                problems.notes[f"samples moved from {split} to {new} by --split-file"] += 1
            if number not in left_out:
                yield replace(sample, split=new) if new != split else sample


def _kind(sample: Sample) -> tuple[str, bool | None]:
    """The phrase that counts for --per-label, or the group for --max-normal with whether the sample is normal."""
    if sample.task == "report":
        return "report", is_normal(sample.report or "")
    if sample.kind == "detection":
        return "detection", not sample.boxes
    return sample.phrase or "", None


def is_normal(report: str) -> bool:
    """Whether every sentence of a report says that something is normal or absent, as far as its words show.

    >>> is_normal("The lungs are clear. No effusion."), is_normal("The lungs are clear. Small left effusion.")
    (True, False)
    """
    sentences = [sentence for sentence in re.split(r"[.;\n]\s*", report.lower()) if re.search("[a-z]{3}", sentence)]
    return bool(sentences) and all(_NORMAL.search(text) and not _BUT.search(text) for text in sentences)


def _left_out(
    training: list[tuple[int, int, str, bool | None]], options: argparse.Namespace, problems: Problems
) -> set[int]:
    """Numbers of the training samples that are left out, the last by rank."""
    groups: dict[tuple[str, bool | None], list[int]] = defaultdict(list)
    for _, number, label, normal in training:
        groups[label, normal].append(number)
    left_out: set[int] = set()
    for (label, normal), numbers in groups.items():
        if normal is None and options.per_label:
            note, most = "training samples left out by --per-label", options.per_label
        elif normal and options.max_normal is not None and options.max_normal < 1:
            note = f"normal {label} samples of training left out by --max-normal"
            most = int(options.max_normal / (1 - options.max_normal) * len(groups.get((label, False), ())) + 1e-9)
        else:
            continue
        left_out.update(numbers[most:])
        problems.notes[note] += len(numbers[most:])
    return left_out


class SplitFile:
    """The splits that a published file gives to patients, studies or samples.

    It is CSV with a column "split" and one of ids (the first of `id`, `study_id`, `patient_id` and the like), or JSON:
    `{id: split}`, `{split: [ids]}`, or a list of objects with an id and `split`. Gzipped CSV is read too.

    An id means the patient or sample of this id, or the samples whose id begins with it, as `s50414267` does for the
    study of `s50414267-<image>`; the "s" or "p" of MIMIC-CXR may be missing. UsageError: the file cannot be read, or
    names a split other than train, val and test.
    """

    def __init__(self, path: Path, problems: Problems) -> None:
        self._path = path
        self._splits: dict[str, set[str]] = defaultdict(set)
        for identity, named in _pairs(path, problems):
            split = NAMES.get(named.strip().lower())
            if split is None:
                raise UsageError(f"--split-file {path}: split {named!r} of {identity} must be train, val or test")
            self._splits[identity].add(split)
        self._by_prefix: dict[str, list[str]] = defaultdict(list)
        for identity in self._splits:
            for prefix in _prefixes(identity):
                self._by_prefix[prefix].append(identity)
        self._used: set[str] = set()
        self._of_patient: dict[str, set[str]] = defaultdict(set)

    def see(self, sample: Sample) -> None:
        """Look a sample and its patient up."""
        names = {sample.patient_id, sample.id, *_prefixes(sample.id)}
        names |= {name[1:] for name in names if re.fullmatch(r"[sp]\d+", name)}
        if isinstance(sample.image, Path):
            names.add(sample.image.stem)
        named = [name for name in names if name in self._splits] + self._by_prefix.get(sample.patient_id, [])
        self._used.update(named)
        self._of_patient[sample.patient_id].update(*(self._splits[name] for name in named))

    def decide(self, problems: Problems) -> Mapping[str, str]:
        """Each patient's split: test if any sample is in test, else val likewise; RefusedData if no id was seen."""
        if not self._used:
            example = next(iter(self._splits), "")
            ids = f"none of its {len(self._splits):,} ids, e.g. {example!r}"
            raise RefusedData(f"--split-file {self._path}: {ids}, is a patient, study or sample of this data set")
        splits = {patient: min(named, key=_TEST_FIRST.index) for patient, named in self._of_patient.items() if named}
        notes = {
            "ids of --split-file that are not in the data": len(self._splits) - len(self._used),
            "patients whom --split-file does not name, in their own split": len(self._of_patient) - len(splits),
            "patients with studies in several splits of --split-file, moved to the first of test, val and train": sum(
                len(named) > 1 for named in self._of_patient.values()
            ),
        }
        problems.notes.update({note: number for note, number in notes.items() if number})
        return splits


def _prefixes(identity: str) -> list[str]:
    """The beginnings of an id up to each sign that is neither letter nor digit."""
    return [identity[: sign.start()] for sign in _PARTS.finditer(identity) if sign.start()]


def _pairs(path: Path, problems: Problems) -> Iterator[tuple[str, str]]:
    """Id and split of each entry of a split file."""
    if path.suffix.lower() != ".json":
        names = tables.header(path)
        split = next((name for name in names if name.lower() == "split"), "split")
        identity = next((name for known in _ID_COLUMNS for name in names if name.lower() == known), names[0])
        yield from ((row[0], row[1]) for row in tables.rows(path, (identity, split), problems))
        return
    try:
        content = jsons.read(path, problems)
    except RefusedData as error:
        raise UsageError(f"--split-file {error}") from error
    try:
        if isinstance(content, list):
            yield from ((_identity(entry), str(entry["split"])) for entry in content)
        elif any(isinstance(ids, list) for ids in content.values()):
            yield from ((_identity(entry), split) for split, ids in content.items() for entry in ids)
        else:
            yield from ((identity, str(split)) for identity, split in content.items())
    except (AttributeError, TypeError, KeyError) as error:
        need = "{id: split}, {split: [ids]} or a list of objects with an id and split"
        raise UsageError(f"--split-file {path}: need {need}") from error


def _identity(entry: Any) -> str:
    return str(entry if isinstance(entry, str | int) else entry[next((k for k in _ID_COLUMNS if k in entry), "id")])


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
