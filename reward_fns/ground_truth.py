"""The ground truth of a row, parsed in one place for scoring, validation and reports."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeGuard

from reward_fns.boxes import Box


class Defect(NamedTuple):
    """What is wrong with a row: a fixed kind for counting, and the exact complaint."""

    kind: str
    detail: str


@dataclass(frozen=True)
class GroundTruth:
    """A sound ground truth."""

    task: str
    report: str  # the reference text; "" for grounding
    boxes: tuple[Box, ...]  # with labels, in shares of the image; empty for reports
    frame: tuple[int, int] | None  # width and height in pixels of the resized image, if stored (box format qwen25vl)
    stored: Mapping[str, Any]  # all keys as stored; `data_prep` also writes id, patient_id, task and box_format

    @property
    def reference(self) -> Any:
        """What a reward of the task compares with: the report, or the boxes."""
        return self.report if self.task == "report" else self.boxes


def parse_ground_truth(stored: Any, task: str) -> tuple[GroundTruth | None, list[Defect]]:
    """The ground truth of a row and an empty list, or None and every defect of it.

    Args:
        stored: a JSON object as text, or the same as a mapping: `{"report": text}` or
            `{"boxes": [[x1, y1, x2, y2], ...], "labels": [...]}` in shares of the image, labels optional.
        task: "report" or "grounding".

    >>> parse_ground_truth('{"boxes": [[0.1, 0.2, 0.3, 0.4]]}', "grounding")[0].boxes[0].quad
    (0.1, 0.2, 0.3, 0.4)
    >>> for defect in parse_ground_truth({"boxes": [[0.5, 0.2, 0.3, 0.4], [0, 0, 2, 1]]}, "grounding")[1]:
    ...     print(*defect, sep=": ")
    swapped corners: [0.5, 0.2, 0.3, 0.4] needs x1 < x2 and y1 < y2: upper left corner first, then lower right
    box outside: [0, 0, 2, 1] leaves the image: corners are shares of its width and height, from 0 to 1
    """
    try:
        truth = _object(stored)
    except ValueError as error:
        return None, [Defect("bad ground truth", f"ground_truth {error}")]
    frame, report, defects = truth.get("frame"), truth.get("report"), []
    if task == "grounding":
        defects = [*_grounding_defects(truth)]
    elif not isinstance(report, str) or not report.strip():
        defects = [Defect("bad ground truth", f"ground_truth needs a non-empty report, got {report!r}")]
    is_size = _is_list(frame) and len(frame) == 2 and all(type(side) is int and side > 0 for side in frame)
    if frame is not None and not is_size:
        defects.append(Defect("bad ground truth", f"frame must be width and height in pixels, got {frame!r}"))
    if defects:
        return None, defects
    size = None if frame is None else (frame[0], frame[1])
    if task == "report":
        return GroundTruth(task, truth["report"], (), size, truth), []
    labels = truth.get("labels") or [""] * len(truth["boxes"])
    pairs = zip(truth["boxes"], labels, strict=True)
    boxes = tuple(Box(float(x1), float(y1), float(x2), float(y2), str(label)) for (x1, y1, x2, y2), label in pairs)
    return GroundTruth(task, "", boxes, size, truth), []


def box_defects(box: Any) -> Iterator[Defect]:
    """What is wrong with a box as JSON stores it."""
    if not is_quad(box):
        yield Defect("bad box", f"{box!r} is not four finite numbers")
        return
    x1, y1, x2, y2 = box
    if min(box) < 0 or max(box) > 1:
        why = "leaves the image: corners are shares of its width and height, from 0 to 1"
        yield Defect("box outside", f"{list(box)} {why}")
    elif x1 >= x2 or y1 >= y2:
        why = "needs x1 < x2 and y1 < y2: upper left corner first, then lower right"
        yield Defect("swapped corners", f"{list(box)} {why}")


def is_quad(box: Any) -> bool:
    """Whether this is a list of four finite numbers."""
    if not _is_list(box) or len(box) != 4 or not all(isinstance(side, int | float) for side in box):
        return False
    # The comparison is false for nan and for integers beyond any float.
    return all(abs(side) <= sys.float_info.max and not isinstance(side, bool) for side in box)


def _object(stored: Any) -> Mapping[str, Any]:
    if isinstance(stored, Mapping):
        return {key: _as_lists(value) for key, value in stored.items()}

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is not a JSON number")

    try:
        truth = json.loads(stored, parse_constant=refuse)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"is not JSON ({error}): {str(stored)[:200]!r}") from error
    if not isinstance(truth, dict):
        raise ValueError(f"must be a JSON object, got {str(stored)[:200]!r}")
    return truth


def _grounding_defects(truth: Mapping[str, Any]) -> Iterator[Defect]:
    boxes, labels = truth.get("boxes"), truth.get("labels")
    if not _is_list(boxes):
        hint = "; an empty list means that there is nothing to find" if boxes is None else ""
        yield Defect("bad ground truth", f"ground_truth needs boxes, [[x1, y1, x2, y2], ...], got {boxes!r}{hint}")
        return
    if labels is not None and (not _is_list(labels) or len(labels) != len(boxes)):
        yield Defect("bad ground truth", f"ground_truth has {len(boxes)} boxes, but labels {labels!r}")
    for box in boxes:
        yield from box_defects(box)


def _as_lists(value: Any) -> Any:
    """A value read from parquet, with numpy's arrays and numbers turned into Python's."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return [_as_lists(item) for item in value] if isinstance(value, list | tuple) else value


def _is_list(value: Any) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)
