"""A sample as rewards see it: its texts and boxes parsed once, at the edge."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from reward_fns.answers import extract_answer
from reward_fns.boxes import Box
from reward_fns.conventions import Convention, Frame, ParsedBoxes, get_convention
from reward_fns.errors import DataError, UsageError, unknown
from reward_fns.registry import ANY, FROM_VERL, TASKS, Reward
from reward_fns.spec import RewardSpec

DEFAULT_BOX_FORMAT = "radvlm"
_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Rollout(NamedTuple):
    """What verl knows about one rollout; see `reward_fns.compute_score`.

    Attributes:
        from_verl: the keywords of `reward_fns.registry.FROM_VERL`, where there are any.
    """

    data_source: str
    solution_str: str
    ground_truth: str | Mapping[str, Any]
    extra_info: Mapping[str, Any]
    from_verl: Mapping[str, Any] = _NOTHING


@dataclass(frozen=True, slots=True)
class ParsedRollout:
    """A sample with its texts and boxes parsed.

    Attributes:
        prediction, reference: texts or tuples of boxes, as the task has it.
        answer: the model's answer as text, empty if there is none.
        context: values of the context keywords that a reward may take.
        failed: whether the model failed, so that every reward has its floor.
        diagnostics: values for `reward_fns.registry.DIAGNOSTICS`.
    """

    id: str
    task: str
    prediction: Any
    reference: Any
    answer: str
    context: Mapping[str, Any]
    failed: bool
    diagnostics: tuple[float, ...]

    def sides(self, reward: Reward) -> tuple[Any, Any]:
        """Prediction and reference for this reward: texts for one of task "any", whatever the sample's task."""
        if reward.task == ANY:
            return self.answer, self.reference if self.task == "report" else ""
        return self.prediction, self.reference


def parse_rollout(sample: Rollout, spec: RewardSpec) -> ParsedRollout | DataError:
    """Parse a sample's output and ground truth.

    Args:
        sample: see `reward_fns.compute_score`.
        spec: says which tasks there are, and where an answer begins.

    Returns:
        what rewards are called with, or what is wrong with the row.
    """
    sample_id = str(sample.extra_info.get("id", ""))
    try:
        return _read(sample, sample_id, spec)
    except (ValueError, TypeError, UsageError) as error:
        row = f"{sample.data_source!r}, id {sample_id!r}"
        return DataError(f"data source {row}: {error}; mend this row, or make the data again with python -m data_prep")


def _read(sample: Rollout, sample_id: str, spec: RewardSpec) -> ParsedRollout:
    info = sample.extra_info
    task = info.get("task") or str(sample.data_source).rpartition("/")[2]
    if task not in TASKS:
        raise ValueError(unknown("task", task, TASKS))
    if task not in spec.tasks:
        raise ValueError(f"the reward spec has no rewards for task {task}, only for {', '.join(spec.tasks)}")
    if not isinstance(sample.solution_str, str):
        raise ValueError(f"the model's answer must be a text, got {sample.solution_str!r}")
    truth = _truth(sample.ground_truth)
    thinking = bool(info.get("thinking"))
    answer = extract_answer(sample.solution_str, thinking=thinking, think_end=spec.think_end)
    failed = answer is None
    prediction: Any = answer
    boxes = ParsedBoxes((), (), unreadable=False)
    if task == "report":
        reference: Any = _report(truth)
    else:
        reference = _boxes(truth)
        convention = get_convention(info.get("box_format") or DEFAULT_BOX_FORMAT)
        boxes = convention.parse(answer or "", _frame(convention, truth, info))
        prediction = boxes.boxes
        failed = failed or boxes.unreadable
    well_formed = not failed and bool(boxes.boxes or not boxes.invalid)
    diagnostics = (well_formed, failed, len(answer or ""), len(boxes.boxes), len(boxes.invalid))
    context = {
        "extra_info": info,
        "invalid_boxes": boxes.invalid,
        "output": sample.solution_str,
        "thinking": thinking,
        **{key: sample.from_verl.get(key) for key in FROM_VERL},
    }
    numbers = tuple(map(float, diagnostics))
    return ParsedRollout(sample_id, task, prediction, reference, answer or "", context, failed, numbers)


def _truth(ground_truth: str | Mapping[str, Any]) -> Mapping[str, Any]:
    truth: Any = ground_truth
    if isinstance(ground_truth, str):
        try:
            truth = json.loads(ground_truth)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"ground_truth is not JSON ({error}): {ground_truth[:200]!r}") from error
    if not isinstance(truth, Mapping):
        raise ValueError(f"ground_truth must be an object, got {truth!r}")
    return truth


def _report(truth: Mapping[str, Any]) -> str:
    report = truth.get("report")
    if not isinstance(report, str) or not report.strip():
        raise ValueError(f"ground_truth needs a report that is not empty, got {report!r}")
    return report


def _boxes(truth: Mapping[str, Any]) -> tuple[Box, ...]:
    if "boxes" not in truth:
        raise ValueError("ground_truth has no boxes; an empty list means that there are none")
    boxes = list(truth["boxes"])
    labels = [""] * len(boxes) if truth.get("labels") is None else list(truth["labels"])
    if len(labels) != len(boxes):
        raise ValueError(f"ground_truth has {len(boxes)} boxes, but {len(labels)} labels")
    found = []
    for quad, label in zip(boxes, labels, strict=True):
        try:
            x1, y1, x2, y2 = quad
            found.append(Box(x1, y1, x2, y2, str(label)))
        except (ValueError, TypeError) as error:
            raise ValueError(f"ground_truth box {quad!r}: {error}") from error
    return tuple(found)


def _frame(convention: Convention, truth: Mapping[str, Any], info: Mapping[str, Any]) -> Frame:
    if convention.unit in ("share", "thousandth"):
        return 1, 1  # relative to the image, whatever its size
    resized = truth.get("frame") if convention.unit == "resized pixel" else None
    size: Any = resized or (info.get("width"), info.get("height"))
    try:
        width, height = (int(side) for side in size)
    except (TypeError, ValueError, OverflowError):
        width = height = 0
    if min(width, height) < 1:
        raise ValueError(f"box format {convention.name} needs width and height of the image in pixels, got {size!r}")
    return (width, height) if resized else convention.frame(width, height)
