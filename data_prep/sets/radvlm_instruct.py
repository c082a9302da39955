"""The RadVLM instruction data set 1.0.0: 1,115,021 instructions about chest X-rays, as released by its authors.

File: one JSON list in LLaVA's format, {"image", "conversations", "id"} (https://github.com/uzh-dqbm-cmi/RadVLM), from
https://physionet.org/content/radvlm-instruction-dataset/1.0.0/ (PhysioNet Credentialed Health Data License). Images of
MIMIC-CXR-JPG, CheXpert, CheXpert-Plus, VinDr-CXR (as JPEG) and PadChest, each under its own licence, lie below --root.
Of an absolute path in `image`, of the authors' machine, the longest end that exists below --root is taken.

The id begins with the source, which says what an item is:

    mimic-train, chexpertplus-train      reports: 230,980 and 186,463
    chestima-train                       anatomy: 80,000
    vindr-cxr-mono-train                 one abnormality: 16,089, three times
    vindr-cxr-train                      all abnormalities: 15,000, twice
    mscxr-train, padchest-train          phrases: 971, three times, and 4,478, twice
    mimic-labels-train, chexpert-train   classification: 237,912 and 191,027
    conv-train, conv-grounded-...        conversations: 86,155, 862 four times and 2,225 four times

Questions are asked word by word. For --box-format radvlm, the set's own, SFT teaches answers word by word too; else
boxes are written anew. Classification and conversations become rows for SFT only. All is meant for training. Patients
are named as the sources' own loaders do: from the paths of MIMIC-CXR and CheXpert; each film of VinDr-CXR counts as
one; PadChest's are in PadChest-GR's master_table.csv only, looked for beside its films and above.
"""

import argparse
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import yaml
from tqdm import tqdm

from data_prep.options import add_options
from data_prep.problems import Problems
from data_prep.readers import pictures, reports
from data_prep.readers.jsons import Dialog, dialogs, task_content
from data_prep.registry import data_set
from data_prep.sample import Sample


class _Source(NamedTuple):
    name: str  # of the data set in our rows
    task: str
    kind: str


_TABLE = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text("utf-8"))
_SOURCES = {beginning: _Source(*row) for beginning, row in _TABLE.items()}
_ID = re.compile(r"(.+)-train\d*_\d+")
_MASTER_TABLE = "master_table.csv"
# "a nodule/mass located at the coordinates [...], [...] and [...]; an ..." names the places that follow.
_NAMED = re.compile(r"(?:^|[\s:])an? ((?:(?! an? )[^;\[\]]){1,60}) located at the coordinates ([^;]*)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", type=Path, required=True, help="folder below which the images of all sources lie")
    parser.add_argument("--annotations", type=Path, required=True, help="the set's JSON file")
    parser.add_argument("--sources", nargs="+", choices=sorted(_SOURCES), metavar="SOURCE", help="only these")
    parser.add_argument("--padchest-table", type=Path, help="PadChest-GR's master_table.csv, which names its patients")
    add_options(parser, "splits")


@data_set(
    "radvlm_instruct",
    summary="the RadVLM instruction set: reports, boxes, classification, conversations",
    example="python -m data_prep radvlm_instruct --root datasets --annotations all_train.json --out data/instruct",
    arguments=add_arguments,
    expected={"items": 1_115_021},
)
def samples(options: argparse.Namespace, problems: Problems) -> Iterator[Sample]:
    """One sample per item; what cannot be used goes to `problems`."""
    reports.folder(options.root, "--root", "the images")
    verbatim = options.box_format == "radvlm"
    items = tqdm(dialogs(options.annotations, problems), unit="item", disable=None)
    padchest: dict[str, str] | None = None  # patients by film
    # Only headers are read: to decode a million films takes days, and `validate` opens those that are used.
    for (dialog, source, path), film in pictures.headers(_placed(items, options, problems), problems):
        content = _content(dialog, source, problems)
        if content is None:
            continue
        patient = reports.patient_in_path(dialog.image) or reports.film_patient(dialog.image)
        if source.name == "padchest_gr":
            if padchest is None:
                # Beside the film or above, below --root.
                above = [options.root, *(folder for folder in path.parents if folder.is_relative_to(options.root))]
                beside = next(filter(Path.is_file, (folder / _MASTER_TABLE for folder in above)), None)
                table = options.padchest_table or beside
                padchest = reports.padchest_patients(table, problems) if table else {}
            if patient not in padchest:
                wrong = f"no {_MASTER_TABLE} names the patient of {path.name}; give it by --padchest-table; not used"
                problems.add("no_patient", f"id {dialog.id}", wrong)
                continue
            patient = padchest[patient]
        answer = dialog.turns[0][1] if verbatim and source.task == "grounding" else None
        content |= {"kind": source.kind, "answer": answer}
        yield Sample(dialog.id, patient, reports.split(options, patient), source.name, source.task, *film, **content)


def _placed(
    items: Iterable[Dialog], options: argparse.Namespace, problems: Problems
) -> Iterator[tuple[tuple[Dialog, _Source, Path], Path]]:
    dropped: dict[tuple[str, ...], None] = {}
    for dialog in items:
        match = _ID.fullmatch(dialog.id)
        name, where = match[1] if match else "", f"id {dialog.id}"
        if name not in _SOURCES:
            problems.add("unknown_source", where, f"does not begin with one of {', '.join(_SOURCES)}; not used")
        elif options.sources is None or name in options.sources:
            image = _below(options.root, dialog.image, dropped)
            if path := pictures.within(options.root, image, where, problems):
                yield (dialog, _SOURCES[name], path), path


def _below(root: Path, image: str, dropped: dict[tuple[str, ...], None]) -> str:
    """The longest end of an absolute path that exists below the folder, else the path; `dropped` caches beginnings."""
    path = PurePosixPath(image)
    if not path.is_absolute() or ".." in path.parts:
        return image
    before = (len(start) for start in dropped if path.parts[: len(start)] == start)
    for count in (*before, *range(1, len(path.parts))):
        name = PurePosixPath(*path.parts[count:])
        if (root / name).is_file():
            dropped[path.parts[:count]] = None
            return str(name)
    return str(path.relative_to("/"))


def _content(dialog: Dialog, source: _Source, problems: Problems) -> dict[str, Any] | None:
    content, answer = task_content(source.task, dialog, "radvlm", (1, 1), problems), dialog.turns[0][1]
    if content is None or source.task != "grounding" or (source.kind != "detection" and content["boxes"]):
        return content
    names = [name.strip() for name, places in _NAMED.findall(answer) for _ in range(places.count("["))]
    if source.kind != "detection":
        problems.add("no_box", f"id {dialog.id}", f"the answer gives no box: {answer[:200]!r}; not used")
    elif len(names) != len(content["boxes"]):
        problems.add("bad_box", f"id {dialog.id}", f"not every box has a name: {answer[:200]!r}; not used")
    else:
        boxes = (replace(box, label=name) for box, name in zip(content["boxes"], names, strict=True))
        return {**content, "boxes": tuple(boxes)}
    return None
