"""Warnings about a GRPO run by the rules in rules.yaml: each a function of the metrics of its steps and its limits."""

import re
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from statistics import fmean, median
from typing import Any

import yaml

from recipe.cxr_grpo.results.metrics import validation_points

Steps = Mapping[int, Mapping[str, float]]
RULES: dict[str, dict[str, Any]] = yaml.safe_load((resources.files(__package__) / "rules.yaml").read_text())
_SMOOTH = 5  # values in a median: one step is noisy


def warned(rule: str, saw: str) -> dict[str, str]:
    """A warning: its rule, what the rule saw, and what to do."""
    return {"rule": rule, "saw": saw, "advice": RULES[rule]["advice"]}


def smoothed(steps: Steps, pattern: str) -> Iterator[tuple[str, dict[int, float]]]:
    """The metrics with a name of this pattern as running medians: name, and step -> median of the last five values."""
    for name in sorted({name for logged in steps.values() for name in logged if re.fullmatch(pattern, name)}):
        points = [(step, logged[name]) for step, logged in steps.items() if name in logged]
        ends = range(_SMOOTH, len(points) + 1)
        if curve := {points[end - 1][0]: median(value for _, value in points[end - _SMOOTH : end]) for end in ends}:
            yield name, curve


def length_collapse(steps: Steps, *, factor: float) -> Iterator[str]:
    """Answers are much shorter than they once were."""
    for name, medians in smoothed(steps, "reward/[^/]+/answer_chars/mean|response_length/mean"):
        first = next(step for step, logged in steps.items() if name in logged)
        lengths = {first: steps[first][name]} | medians  # the fall can come before the first median
        longest, last = max(lengths, key=lengths.__getitem__), max(lengths)
        if factor * lengths[last] < lengths[longest]:
            yield f"{name} fell from {lengths[longest]:.0f} in step {longest} to {lengths[last]:.0f} in step {last}"


def scorer_failures(steps: Steps, *, max_rate: float, window: int) -> Iterator[str]:
    """Many rollouts of the last steps, or of the last validation, have no reward."""
    asked, failed = "reward/validation/rollouts", "reward/validation/failed_rollouts"
    train = [logged["reward/failed_share"] for logged in steps.values() if "reward/failed_share" in logged][-window:]
    validation = [logged[failed] / logged[asked] for logged in steps.values() if logged.get(asked)][-1:]
    for where, shares in {f"the last {len(train)} steps": train, "the last validation": validation}.items():
        if shares and fmean(shares) > max_rate:
            yield f"{fmean(shares):.1%} of the rollouts of {where} have no reward, over {max_rate:.1%}"


def too_high(steps: Steps, *, rising: bool = False, **limits: float) -> Iterator[str]:
    """A metric, or with ``rising`` its distance from the lowest value so far, is over its limit."""
    for pattern, limit in limits.items():
        for name, curve in smoothed(steps, pattern):
            now, low = curve[max(curve)], min(curve.values()) if rising else 0.0
            if now - low > limit:
                yield f"{name} is {now:.3g}, " + (f"up from {low:.3g}" if rising else f"over {limit:g}")


def validation_falls_while_training_rises(steps: Steps, *, fall: float) -> Iterator[str]:
    """The last validation is below the best one, although the training reward has risen since."""
    validations = validation_points(steps)
    for name, trained in smoothed(steps, "reward/[^/]+/score/mean"):
        points = validations.get(f"{name.split('/')[1]}/score", {0: 0.0})
        best, last = max(points, key=points.__getitem__), max(points)
        then, now = (trained[max((at for at in trained if at <= end), default=min(trained))] for end in (best, last))
        if points[best] - points[last] > fall and now > then:
            change = f"from {points[best]:.3f} in step {best} to {points[last]:.3f} in step {last}"
            yield f"the validation of {name.split('/')[1]} fell {change}, in training it rose to {now:.3f}"


_CHECKS: dict[str, Callable] = dict.fromkeys(("rising_floor_rate", "zero_spread", "kl_runaway"), too_high)
_CHECKS |= {rule.__name__: rule for rule in (length_collapse, scorer_failures, validation_falls_while_training_rises)}


def check(steps: Steps, failures: Mapping[str, float]) -> list[dict[str, str]]:
    """The warnings of all rules; ``failures`` are the run's own limits of ``scorer_failures``."""
    found = []
    for name, rule in _CHECKS.items():
        limits = RULES[name]["limits"] | (failures if name == "scorer_failures" else {})
        found += [warned(name, saw) for saw in rule(steps, **limits)]
    return found
