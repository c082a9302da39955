"""A rollout as rewards see it: its texts and boxes parsed once, before any reward is called."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from reward_fns.answers import extract_answer
from reward_fns.conventions import Convention, Frame, ParsedBoxes, get_convention
from reward_fns.errors import DataError, UsageError, unknown
from reward_fns.ground_truth import GroundTruth, parse_ground_truth
from reward_fns.registry import ANY, FROM_VERL, TASKS, Reward
from reward_fns.spec import RewardSpec

_log = logging.getLogger(__name__)


class Rollout(NamedTuple):
    """What verl knows about one rollout; see `reward_fns.compute_score`."""

    data_source: str
    solution_str: str
    ground_truth: str | Mapping[str, Any]
    extra_info: Mapping[str, Any]
    from_verl: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class ParsedRollout:
    """A rollout with its texts and boxes parsed."""

    id: str
    task: str
    prediction: Any  # like the reference, a text or a tuple of boxes, as the task has it
    reference: Any
    answer: str  # empty if there is none
    context: Mapping[str, Any]  # values of `registry.CONTEXT`
    failed: bool  # whether the model did, so that every reward has its floor
    diagnostics: tuple[float, ...]  # values of `registry.DIAGNOSTICS`

    def sides(self, reward: Reward) -> tuple[Any, Any]:
        """Prediction and reference for this reward: texts for one of task "any", whatever the rollout's task."""
        if reward.task == ANY:
            return self.answer, self.reference if self.task == "report" else ""
        return self.prediction, self.reference


def parse_rollout(rollout: Rollout, spec: RewardSpec) -> ParsedRollout | DataError:
    """What rewards are called with, or every defect of the row; what the model wrote is never one."""
    row_id = str(rollout.extra_info.get("id", ""))
    try:
        row = _row(rollout, spec)
    except (ValueError, TypeError, UsageError) as error:
        where = f"{rollout.data_source!r}, id {row_id!r}"
        return DataError(f"data source {where}: {error}; correct this row, or prepare the data again (data_prep)")
    answer = extract_answer(rollout.solution_str, thinking=row.thinking, think_end=spec.think_end)
    boxes = ParsedBoxes((), (), unreadable=False)
    if row.convention is not None:
        boxes = _boxes(answer or "", row.convention, row.frame, spec)
    failed = answer is None or boxes.unreadable
    well_formed = not failed and bool(boxes.boxes or not boxes.invalid)
    diagnostics = map(float, (well_formed, failed, len(answer or ""), len(boxes.boxes), len(boxes.invalid)))
    context = {"extra_info": rollout.extra_info, "output": rollout.solution_str, "thinking": row.thinking}
    context |= {"invalid_boxes": boxes.invalid, **{key: rollout.from_verl.get(key) for key in FROM_VERL}}
    prediction = answer if row.task == "report" else boxes.boxes
    reference = row.truth.reference
    return ParsedRollout(row_id, row.task, prediction, reference, answer or "", context, failed, (*diagnostics,))


class _Row(NamedTuple):
    """What a row asks for."""

    task: str
    thinking: bool
    truth: GroundTruth
    convention: Convention | None  # of boxes; None for a report
    frame: Frame


def _row(rollout: Rollout, spec: RewardSpec) -> _Row:
    info = rollout.extra_info
    task = info.get("task") or str(rollout.data_source).rpartition("/")[2]
    if task not in TASKS:
        raise ValueError(unknown("task", task, TASKS))
    if task not in spec.tasks:
        raise ValueError(
            f"the reward spec has no rewards for task {task}, only for {', '.join(spec.tasks)}: add it to the spec"
        )
    if not isinstance(rollout.solution_str, str):
        raise ValueError(f"the model's answer must be a text, got {rollout.solution_str!r}")
    thinking: Any = info.get("thinking")
    thinking = thinking.item() if hasattr(thinking, "item") else thinking  # numpy's, from parquet
    # Text is refused: "false" is true for Python, and would fail every answer.
    if not isinstance(thinking, bool | None):
        raise ValueError(f"thinking must be true or false, got {thinking!r}")
    truth, defects = parse_ground_truth(rollout.ground_truth, task)
    if truth is None:
        raise ValueError("; ".join(defect.detail for defect in defects))
    if task != "grounding":
        return _Row(task, bool(thinking), truth, None, (1, 1))
    convention = get_convention(info.get("box_format") or "radvlm")
    return _Row(task, bool(thinking), truth, convention, _frame(convention, truth, info))


def _boxes(answer: str, convention: Convention, frame: Frame, spec: RewardSpec) -> ParsedBoxes:
    try:
        return convention.parse(answer, frame, reader=spec.boxes, nothing=spec.nothing)
    except Exception:
        # Raised, it would take the sample out of the batch: a model could learn to be rid of its own bad answers.
        _log.exception("a defect of the reader of boxes; the answer counts as unreadable: %r", answer[:300])
        return ParsedBoxes((), (), unreadable=True)


def _frame(convention: Convention, truth: GroundTruth, info: Mapping[str, Any]) -> Frame:
    """Width and height of the image that coordinates refer to; any for conventions relative to it."""
    if convention.unit in ("share", "thousandth"):
        return 1, 1
    if convention.unit == "resized pixel":
        if truth.frame is None:
            what = "[width, height] in pixels of the image as the model's processor resizes it"
            why = "which depends on its min_pixels and max_pixels"
            raise ValueError(f"box format {convention.name} needs frame in ground_truth: {what}, {why}")
        return truth.frame
    size = (info.get("width"), info.get("height"))
    try:
        width, height = (int(side) for side in size)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        width = height = 0
    if min(width, height) < 1:
        raise ValueError(f"box format {convention.name} needs width and height of the image in pixels, got {size!r}")
    return width, height
