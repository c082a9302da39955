"""Steps that sets share: the part of a report that is asked for, rows per study or image, patients' names."""

import argparse
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from data_prep.problems import Problems
from data_prep.readers import pictures, tables
from data_prep.readers.images import Film
from data_prep.readers.sections import Sections, choose, line
from data_prep.sample import Sample, split_of
from reward_fns.errors import UsageError

_PLACEHOLDERS = {"", "none", "nan", "null", "n/a", "na"}
_Film = Film | tuple[None, int, int]  # a film, or none
_FOLDER = re.compile(r"(?:^|/)(p\d{8}|patient\d{5,})(?=/)")


def split(options: argparse.Namespace, patient: str, salt: str = "") -> str:
    """The split of a patient by the options `splits`, for sets without a published split."""
    by_hash = options.split is None and options.split_by_hash
    return split_of(patient, by_hash, salt) if by_hash else options.split or "train"


def folder(path: Path, option: str, holds: str) -> Path:
    """The path if it is a folder, else a UsageError that names the option and what the folder should hold."""
    if not path.is_dir():
        raise UsageError(f"{option} {path} is not a folder; give the one that holds {holds}")
    return path


def is_placeholder(text: str) -> bool:
    """Whether a text says nothing: it is blank, has no letters, is masked, or only says that it is missing.

    >>> [is_placeholder(text) for text in ("nan", "...", "XXXX.", "None.", "Normal.")]
    [True, True, True, True, False]
    """
    return not any(map(str.isalpha, text)) or text.strip(" .…'\"()[]_X").lower() in _PLACEHOLDERS


def known_text(value: Any) -> str:
    """A text in one line; "" for a placeholder and for what is not a text, such as NaN."""
    return line(value) if isinstance(value, str) and not is_placeholder(value) else ""


def reference(sections: Sections, wanted: str, where: str, problems: Problems) -> tuple[str, str] | None:
    """`choose`, for which placeholders such as "None" are problems, and reports without the section a note."""
    names = {"both": ("findings", "impression"), "fallback": Sections._fields}.get(wanted, (wanted,))
    for name in names:
        text = getattr(sections, name)
        if text and is_placeholder(text):
            problems.add("placeholder_report", where, f"its {name} is {text[:40]!r}, which says nothing; not used")
            sections = sections._replace(**{name: ""})
    chosen = choose(sections, wanted)
    if chosen is None:
        problems.notes[f"reports without the section asked for ({wanted})"] += 1
    return chosen


class Study(NamedTuple):
    """A study with a usable report; as in `Sample`; `films` has each image's row id and path, best first."""

    id: str
    patient: str
    split: str
    kind: str
    report: str
    films: Sequence[tuple[str, Path]] = ()
    lateral: Path | None = None
    indication: str = ""  # whether asked for or not
    prior: str = ""

    def sample(
        self, dataset: str, identity: str, options: argparse.Namespace, film: _Film, lateral: Path | bytes | None = None
    ) -> Sample:
        """The sample of one image of the study, or of none."""
        reason = self.indication if "indication" in options.context else ""
        texts: dict[str, Any] = {"kind": self.kind, "report": self.report, "indication": reason, "prior": self.prior}
        ids, (image, width, height) = (identity, self.patient, self.split, dataset, "report"), film
        return Sample(*ids, image, width, height, lateral=lateral, **texts)


def views(
    frontal: list[str], lateral: list[str], study: str, options: argparse.Namespace, find: Callable[[str], Path | None]
) -> tuple[list[tuple[str, Path]], Path | None]:
    """`Study.films` and `Study.lateral` of images by name, best first, without those that `find` reports missing."""
    wanted = frontal[:1] if options.per == "study" else frontal
    films = [(f"{study}-{path.stem}", path) for path in map(find, wanted) if path]
    return films, find(lateral[0]) if films and lateral and "lateral" in options.context else None


def samples(
    studies: Iterable[Study], dataset: str, options: argparse.Namespace, problems: Problems
) -> Iterator[Sample]:
    """One sample per study or film, as `--per` says; without its lateral view (a problem) if that cannot be read."""

    def films() -> Iterator[tuple[tuple[Study, str], Path]]:
        for study in studies:
            if study.films and study.lateral:
                yield (study, ""), study.lateral
            for identity, path in study.films[: 1 if options.per == "study" else None]:
                yield (study, identity), path

    seen: tuple[Study | None, Path | bytes | None] = None, None
    for (study, identity), film in pictures.read(films(), options, problems):
        if not identity:
            seen = study, film[0]
        else:
            lateral = seen[1] if seen[0] is study else None
            yield study.sample(dataset, study.id if options.per == "study" else identity, options, film, lateral)


# One name for each patient, whichever set shows the film: two names would hide that two splits share the patient.
# p10000032 of subject_id 10000032; CXR3030 of uid 3030, since OpenI does not name patients: each study counts as one.
mimic_patient, openi_patient = "p{}".format, "CXR{}".format


def film_patient(image: str) -> str:
    """The film's name without suffix: in sets that do not name patients, such as VinDr-CXR, each film counts as one."""
    return PurePosixPath(image).stem


def patient_in_path(path: str) -> str | None:
    """The patient of a film of MIMIC-CXR or CheXpert, from the folders of its path; None for films of other sets."""
    match = _FOLDER.search(path)
    return match[1] if match else None


def padchest_patients(master_table: Path, problems: Problems) -> dict[str, str]:
    """Film name, without its suffix -> PatientID, from PadChest-GR's master_table.csv; errors as `tables.rows`."""
    rows = tables.rows(master_table, ("ImageID", "PatientID"), problems)
    return {film_patient(image): patient for image, patient in rows if patient}
