"""The gold answer of a row through the real rewards: what earns too little cannot be learned."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from reward_fns.boxes import Box, iou_matrix
from reward_fns.conventions import CONVENTIONS, Convention, get_convention
from reward_fns.ground_truth import GroundTruth
from reward_fns.scoring import Rollout, score_batch
from reward_fns.spec import Component, RewardSpec, resolve

LIGHT: Mapping[str, Any] = {  # rewards that need no weights
    "grounding": [{"name": "box_soft_f1", "options": {"variant": "symmetric"}}],
    "report": [{"name": "gleu"}],
}
_EPSILON = 1e-6
_NOTHING = "There is nothing to mark."


class GoldRow(NamedTuple):
    """A sound RL row: `data_source`, its parsed ground truth, `extra_info`, and the size bounds of its image."""

    data_source: str
    truth: GroundTruth
    info: Mapping[str, Any]
    bounds: Mapping[str, int | None]


def rewards(spec: str | None, preset: str | None) -> RewardSpec:
    """The reward spec of these names, or the light one."""
    return resolve(spec=spec, preset=preset) if spec or preset else resolve(spec=LIGHT)


def answer(truth: GroundTruth, info: Mapping[str, Any]) -> str:
    """What a perfect model would answer to a sound row, without a reasoning trace.

    >>> from reward_fns.ground_truth import parse_ground_truth
    >>> truth, _ = parse_ground_truth({"boxes": [[0.123, 0.2, 0.3, 0.4]]}, "grounding")
    >>> answer(truth, {"box_format": "radvlm", "width": 9, "height": 9})
    '[0.12, 0.2, 0.3, 0.4]'
    """
    if truth.task == "report":
        return truth.report
    convention = get_convention(info["box_format"])
    return convention.render(truth.boxes, _frame(convention, truth, info)) if truth.boxes else _NOTHING


def rounding(truth: GroundTruth, info: Mapping[str, Any]) -> float:
    """Mean IoU of a row's boxes with themselves as its convention writes them; 1 for a row without boxes.

    >>> from reward_fns.ground_truth import parse_ground_truth
    >>> truth, _ = parse_ground_truth({"boxes": [[0.004, 0.0, 0.014, 1.0]]}, "grounding")
    >>> round(rounding(truth, {"box_format": "radvlm", "width": 9, "height": 9}), 3)
    0.429
    """
    if not truth.boxes:
        return 1.0
    convention = get_convention(info["box_format"])
    return float(_overlaps(convention, truth.boxes, _frame(convention, truth, info)).mean())


def shortfalls(rows: Sequence[GoldRow], spec: RewardSpec) -> list[str]:
    """Why each row's gold answer earns too little, "" if it earns enough.

    A report must earn what it earns where no reasoning trace stands before it, and more than a failure of the model;
    the upper end of a reward's range may be out of reach even for equal reports, as radcliq's 1.45 is. For boxes, and
    of rewards on the form of the answer, the upper end is asked for, less what the convention's rounding costs. Nothing
    is asked of rewards without an upper end and of those with weight 0.
    """
    numbers = [i for i, row in enumerate(rows) if row.info["task"] in spec.tasks]
    traced = [i for i in numbers if rows[i].truth.task == "report" and rows[i].info["thinking"]]
    gold = score_batch([_rollout(rows[i], thinking=bool(rows[i].info["thinking"])) for i in numbers], spec)
    plain = score_batch([_rollout(rows[i], thinking=False) for i in traced], spec)
    attainable = {**dict(zip(numbers, gold, strict=True)), **dict(zip(traced, plain, strict=True))}
    complaints = [""] * len(rows)
    for i, result in zip(numbers, gold, strict=True):
        row, best = rows[i], attainable[i]
        if isinstance(result, Exception) or isinstance(best, Exception):
            failed = result if isinstance(result, Exception) else best
            complaints[i] = f"the gold answer could not be scored: {failed}"
            continue
        asked = [(part, part.reward.name) for part in spec.tasks[row.info["task"]] if part.weight > 0]
        low = [text for part, name in asked if (text := _too_low(part, row, result[name], best[name]))]
        if low:
            gold_text = answer(row.truth, row.info)[:120]
            complaints[i] = f"the gold answer {gold_text!r} earns too little: {', '.join(low)}"
    return complaints


def _too_low(component: Component, row: GoldRow, value: float, attainable: float) -> str:
    reward = component.reward
    worst, best = sorted(reward.range, reverse=not reward.higher_is_better)
    if reward.task == "report":
        if abs(attainable - value) > _EPSILON:
            return f"{reward.name} is {value:.4g}, but {attainable:.4g} without a reasoning trace"
        if abs(value - reward.floor) <= _EPSILON:
            return f"{reward.name} is {value:.4g}, no more than for no answer"
        return ""
    if math.isinf(best):
        return ""
    span = abs(best - worst) if math.isfinite(worst) else abs(best) or 1.0
    if abs(best - value) > span * (1 - rounding(row.truth, row.info)) + _EPSILON:
        return f"{reward.name} is {value:.4g} of {best:g}"
    return ""


class Ceilings:
    """What a perfect answer earns in each box convention; without rewards for grounding, only the loss by rounding."""

    def __init__(self, spec: RewardSpec) -> None:
        self._spec = spec if "grounding" in spec.tasks else None
        self._overlaps: dict[str, list[float]] = {name: [] for name in CONVENTIONS}
        self._scores: dict[str, list[float]] = {name: [] for name in CONVENTIONS}

    def add(self, rows: Sequence[GoldRow]) -> None:
        """Measure the rows that have boxes and an image."""
        sized = [(row, row.info["width"], row.info["height"]) for row in rows if row.truth.boxes]
        sized = [(row, w, h) for row, w, h in sized if 0 < max(w, h) <= 200 * min(w, h)]  # what `smart_resize` takes
        for name, convention in CONVENTIONS.items():
            rollouts = []
            for row, width, height in sized:
                frame = convention.frame(width, height, **row.bounds)
                self._overlaps[name] += _overlaps(convention, row.truth.boxes, frame).tolist()
                info = {**row.info, "box_format": name, "thinking": False}
                text = convention.render(row.truth.boxes, frame)
                rollouts.append(Rollout(row.data_source, text, {**row.truth.stored, "frame": list(frame)}, info))
            if self._spec:
                scores = score_batch(rollouts, self._spec)
                self._scores[name] += [score["score"] for score in scores if isinstance(score, dict)]

    def as_json(self) -> dict[str, dict[str, float]]:
        """Per convention the mean score, and the share of boxes whose IoU with themselves is below 0.5."""
        means = ((name, np.mean(self._scores[name] or math.nan), np.array(v)) for name, v in self._overlaps.items())
        return {k: {"score": float(mean), "under_0.5": float(np.mean(v < 0.5))} for k, mean, v in means if v.size}

    def lines(self) -> list[str]:
        """The same to be read, with the numbers of rows and boxes."""
        values = self.as_json()
        if not values:
            return []
        boxes = len(self._overlaps["radvlm"])
        head = f"a perfect answer to rows with boxes, by box format: mean score, share of {boxes:,} boxes under IoU 0.5"
        return [head, *(f"  {k:9}{v['score']:7.3f}{v['under_0.5']:8.1%}" for k, v in values.items())]


def _rollout(row: GoldRow, *, thinking: bool) -> Rollout:
    text = answer(row.truth, row.info)
    text = f"<think>I look at the film.</think> {text}" if thinking else text
    return Rollout(row.data_source, text, row.truth.stored, {**row.info, "thinking": thinking})


def _overlaps(convention: Convention, boxes: Sequence[Box], frame: tuple[int, int]) -> Any:
    """IoU of each box with what is read of it from the convention's own text."""
    read = convention.parse(convention.render(boxes, frame), frame).boxes
    if not read:
        return np.zeros(len(boxes))
    return iou_matrix(np.array([box.quad for box in boxes]), np.array([box.quad for box in read])).max(axis=1)


def _frame(convention: Convention, truth: GroundTruth, info: Mapping[str, Any]) -> tuple[int, int]:
    stored = truth.frame if convention.unit == "resized pixel" else None
    return stored or convention.frame(info["width"], info["height"])
