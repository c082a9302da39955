"""What box sets share: boxes from annotations, films by name, questions with their answers, absent findings.

A question with a malformed box is left out whole: with its other boxes alone, a right answer would be punished.
"""

import argparse
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from data_prep.problems import Problems, RefusedData
from data_prep.readers.images import Film
from data_prep.sample import Sample, stable_hash
from reward_fns.boxes import Box

_THINNEST = 1e-6  # share of the image's side; less would vanish in the arithmetic on boxes
_EMPTY = "questions about absent findings (right answer: nothing; earns 1 under quickstart, 0 under paper_grounding)"


def add_negatives(parser: argparse.ArgumentParser, source: str) -> None:
    """Add the options for questions about absent findings; `source` says which findings count as looked for."""
    negatives = f"also ask each film for N absent findings (0.25: every fourth film), {source}"
    parser.add_argument("--negatives", type=_per_film, default=0.0, metavar="N", help=negatives)
    parser.add_argument("--negatives-seed", type=int, default=0, help="another seed draws other absent findings")


def _per_film(text: str) -> float:
    if not 0 <= (value := float(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"must be at least 0, got {text}")
    return value


@dataclass
class Question:
    """What to locate: `key` completes the row's id; a box of None is malformed; `kind` is of `sample.KINDS`."""

    key: str
    phrase: str
    boxes: list[Box | None] = field(default_factory=list)
    kind: str = "abnormality"


def absent_questions(
    film: str, looked_for: Iterable[str], present: Iterable[str], options: argparse.Namespace, kind: str = "abnormality"
) -> dict[str, Question]:
    """Finding -> question for findings looked for but not present (or malformed); every run draws the same by hash."""
    if not options.negatives:
        return {}
    salt = f"{options.negatives_seed}/{film}"
    number = math.floor(options.negatives + stable_hash(salt) / 2**64)
    absent = sorted(set(looked_for) - set(present), key=lambda finding: stable_hash(f"{salt}/{finding}"))
    return {finding: Question(finding, finding, kind=kind) for finding in absent[:number]}


def grounding_samples(
    film: str, questions: Iterable[Question], picture: Film, row: tuple[str, str, str], problems: Problems
) -> Iterator[Sample]:
    """One sample per question without a malformed box; `row` is the patient id, split and data set of them all."""
    for question in questions:
        boxes = [box for box in question.boxes if box is not None]
        if len(boxes) < len(question.boxes):
            if boxes:
                detail = f"{len(question.boxes) - len(boxes)} of {len(question.boxes)} boxes are malformed; not asked"
                problems.add("incomplete_boxes", f"{film}: {question.phrase!r}", detail)
            continue
        distinct = sorted(dict.fromkeys(boxes), key=lambda box: box.quad)
        if len(distinct) < len(boxes):
            problems.notes["boxes given twice, used once"] += len(boxes) - len(distinct)
        if not distinct:
            problems.notes[_EMPTY] += 1
        answer: dict[str, Any] = {"phrase": question.phrase, "boxes": tuple(distinct), "kind": question.kind}
        yield Sample(f"{film}-{question.key}", *row, "grounding", *picture, **answer)


def normalized_box(
    values: Any,
    size: tuple[int, int],
    label: str,
    where: str,
    problems: Problems,
    *,
    form: Literal["xyxy", "xywh"] = "xyxy",
    overshoot: float = 1.0,
) -> Box | None:
    """The box as shares of the image, or None (a problem) if `values` are not four usable numbers in pixels, or texts.

    Up to `overshoot` pixels past the border are clipped (a note).
    """
    values = list(values) if isinstance(values, list | tuple) else [values]
    types = set(map(type, values))  # bool is an int, but not a coordinate
    numbers: list[float] = []
    with suppress(ValueError, OverflowError):
        numbers = [float(value) for value in values] if types <= {int, float} or types == {str} else []
    if len(numbers) != 4:
        problems.add("bad_box", where, f"box {values!r} is not four numbers; not used")
        return None
    x1, y1, x2, y2 = numbers
    if form == "xywh":
        x2, y2 = x1 + x2, y1 + y2
    width, height = size
    past = max(-x1, -y1, x2 - width, y2 - height)
    left, right = max(x1 / width, 0.0), min(x2 / width, 1.0)
    top, bottom = max(y1 / height, 0.0), min(y2 / height, 1.0)
    kind, wrong = "bad_box", ""
    if not all(map(math.isfinite, (x1, y1, x2, y2))):
        wrong = "is not finite"
    elif min((x2 - x1) / width, (y2 - y1) / height) < _THINNEST:
        wrong = "has no area"
        if form == "xyxy":
            kind, wrong = "swapped_corners", f"{wrong}: corners are swapped, or it is [x, y, width, height]"
    elif past > overshoot or min(right - left, bottom - top) < _THINNEST:
        kind, wrong = "box_outside", f"leaves the {width} x {height} image"
    if wrong:
        problems.add(kind, where, f"box x {x1:g} to {x2:g}, y {y1:g} to {y2:g} {wrong}; not used")
        return None
    if past > 0:
        problems.notes["boxes clipped to the image"] += 1
    return Box(left, top, right, bottom, label)


def refuse_shares(largest: float, path: Path) -> None:
    """Refuse boxes that all lie within one pixel; `largest` is their largest coordinate, 0 without one."""
    if 0 < largest <= 1:
        raise RefusedData(f"{path}: every box lies within one pixel, so these are shares of the image, not pixels")


def find_film(folders: Sequence[Path], names: Sequence[str], problems: Problems) -> Path | None:
    """The first file of these names in the folders, searched in order; None (a problem) if there is none."""
    path = next(filter(Path.is_file, (folder / name for folder in folders for name in names)), None)
    if path is None:
        problems.add("missing_image", names[0], f"not in {' or '.join(map(str, folders))}; film not used")
    return path


def readable(label: str) -> str:
    """A label as it reads in a question.

    >>> readable("ActiveTuberculosis"), readable("Enlarged PA"), readable("rib_fracture")
    ('active tuberculosis', 'enlarged PA', 'rib fracture')
    """
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|[_\s]+", " ", label).split()
    return " ".join(word if word.isupper() else word.lower() for word in words)
