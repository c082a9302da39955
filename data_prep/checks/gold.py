"""The gold answer of a row through the real rewards: what cannot earn the maximum cannot be learnt."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from reward_fns.boxes import Box, iou_matrix
from reward_fns.conventions import get_convention
from reward_fns.scoring import Rollout, score_batch
from reward_fns.spec import RewardSpec, resolve

LIGHT: Mapping[str, Any] = {
    "grounding": [{"name": "box_soft_f1", "options": {"variant": "symmetric"}}],
    "report": [{"name": "gleu"}],
}
"""Rewards that need no weights."""
_EPSILON = 1e-6
_NOTHING = "There is nothing to mark."


def rewards(spec: str | None, preset: str | None) -> RewardSpec:
    """The reward spec of these names, or the light one. Raises UsageError as `reward_fns.spec.resolve`."""
    return resolve(spec=spec, preset=preset) if spec or preset else resolve(spec=LIGHT)


def answer(truth: Mapping[str, Any], info: Mapping[str, Any]) -> str:
    """What a perfect model would answer to a sound row.

    >>> answer({"boxes": [[0.123, 0.2, 0.3, 0.4]]}, {"task": "grounding", "box_format": "radvlm", "thinking": True,
    ...     "width": 9, "height": 9})
    '<think>I look at the film.</think> [0.12, 0.2, 0.3, 0.4]'
    """
    if info["task"] == "report":
        text = str(truth["report"])
    else:
        boxes, frame = _boxes(truth), _frame(truth, info)
        text = get_convention(info["box_format"]).render(boxes, frame) if boxes else _NOTHING
    return f"<think>I look at the film.</think> {text}" if info["thinking"] else text


def rounding(truth: Mapping[str, Any], info: Mapping[str, Any]) -> float:
    """Mean IoU of a row's boxes with themselves as its convention writes them; 1 where there are none.

    >>> info = {"task": "grounding", "box_format": "radvlm", "width": 9, "height": 9}
    >>> round(rounding({"boxes": [[0.004, 0.0, 0.014, 1.0]]}, info), 3)
    0.429
    """
    import numpy as np

    boxes = _boxes(truth) if info["task"] == "grounding" else ()
    if not boxes:
        return 1.0
    convention, frame = get_convention(info["box_format"]), _frame(truth, info)
    read = convention.parse(convention.render(boxes, frame), frame).boxes
    pairs = iou_matrix(np.array([box.quad for box in boxes]), np.array([box.quad for box in read]))
    return float(np.diagonal(pairs).mean())


def shortfalls(rows: Sequence[tuple[Any, Any, Mapping[str, Any], Mapping[str, Any]]], spec: RewardSpec) -> list[str]:
    """Why each row's gold answer earns less than the maximum, "" if it does not.

    Boxes may lose what their convention's rounding costs. Of rewards without an upper end (as `radcliq` unclipped) and
    of those with weight 0, nothing is asked.

    Args:
        rows: data_source, ground truth as it is stored, the same parsed, and extra_info; sound ones.
        spec: the rewards.
    """
    told = []
    samples = [
        Rollout(str(data_source), answer(truth, info), stored, info)
        for data_source, stored, truth, info in rows
        if info["task"] in spec.tasks
    ]
    results = iter(score_batch(samples, spec))
    for _, _, truth, info in rows:
        result = next(results) if info["task"] in spec.tasks else {}
        if isinstance(result, Exception):
            told.append(f"the gold answer could not be scored: {result}")
            continue
        low: list[str] = []
        for component in spec.tasks.get(info["task"], ()):
            reward = component.reward
            worst, best = sorted(reward.range) if reward.higher_is_better else sorted(reward.range, reverse=True)
            if component.weight <= 0 or math.isinf(best):
                continue
            span = abs(best - worst) if math.isfinite(worst) else abs(best) or 1.0
            value = result[reward.name]
            if abs(best - value) > span * (1 - rounding(truth, info)) + _EPSILON:
                low.append(f"{reward.name} is {value:.4g} of {best:g}")
        gold = answer(truth, info)
        told.append(f"the gold answer {gold[:120]!r} earns too little: {', '.join(low)}" if low else "")
    return told


def _boxes(truth: Mapping[str, Any]) -> tuple[Box, ...]:
    labels = truth.get("labels") or [""] * len(truth["boxes"])
    return tuple(
        Box(x1, y1, x2, y2, str(label)) for (x1, y1, x2, y2), label in zip(truth["boxes"], labels, strict=True)
    )


def _frame(truth: Mapping[str, Any], info: Mapping[str, Any]) -> tuple[int, int]:
    convention = get_convention(info["box_format"])
    if convention.unit == "resized pixel":
        width, height = truth["frame"]
        return width, height
    return convention.frame(info["width"], info["height"])
