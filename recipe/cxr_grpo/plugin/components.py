"""What one training step's rollouts say about every part of their reward. verl's side is in ``trainers``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reward_fns.failures import Counts, counts, given_up
from reward_fns.registry import DIAGNOSTICS
from reward_fns.spec import RewardSpec


@dataclass(frozen=True)
class ScoredRollout:
    """One scored answer: the prompt that its group shares, the task and id of its sample, compute_score's result."""

    key: str
    group: str
    task: str
    id: str
    values: Mapping[str, float]


def statistics(rollouts: Sequence[ScoredRollout], spec: RewardSpec, groups: int, group_size: int) -> dict[str, float]:
    """Metrics of one step, for verl's trackers.

    Per task, ``reward/<task>/<key>/<statistic>`` with key ``score`` or a reward's name:

    - ``mean`` and ``std`` over the task's rollouts, ``group_std`` the mean over groups of the spread within a group;
    - ``zero_spread_rate``: share of groups whose rollouts all have the same value; with the score, such a group gives
      no gradient. Groups with one rollout left are not counted;
    - ``floor_rate`` (rewards only): share of rollouts at the worse end of the reward's range, earned or as the floor of
      a failed model.

    Diagnostics such as ``answer_chars`` and ``model_failed`` have ``mean`` and ``std``. ``reward/<task>/rollouts`` is
    how many rollouts all this is over. A task without a rollout has no entries: a gap in a curve, not a zero.

    ``reward/failed_rollouts`` and ``reward/failed_groups`` count what has no reward because scoring (or anything else
    in a rollout) raised; a group is failed if it lost at least one rollout. The trainer adds which reward it was, as
    ``reward/scorers/<reward>/failures`` and ``…/retries`` of this step and of a validation in it.

    Args:
        rollouts: those that were scored.
        spec: the rewards that scored them.
        groups, group_size: how many prompts the step asked for, and how many rollouts of each.

    >>> from reward_fns.spec import resolve
    >>> def rollout(session, value):
    ...     return ScoredRollout(f"a_{session}_0", "a", "report", "p1", {"score": value, "gleu": value})
    >>> found = statistics([rollout(0, 0.0), rollout(1, 1.0)], resolve({"report": [{"name": "gleu"}]}), 2, 2)
    >>> [found[f"reward/report/gleu/{name}"] for name in ("mean", "std", "floor_rate", "zero_spread_rate")]
    [0.5, 0.5, 0.5, 0.0]
    >>> found["reward/failed_rollouts"], found["reward/failed_groups"]
    (2, 1)
    """
    sizes: dict[str, int] = {}
    for rollout in rollouts:
        sizes[rollout.group] = sizes.get(rollout.group, 0) + 1
    whole = sum(size >= group_size for size in sizes.values())
    found: dict[str, float] = {
        "reward/failed_rollouts": max(groups * group_size - len(rollouts), 0),
        "reward/failed_groups": max(groups - whole, 0),
    }
    for task, parts in spec.tasks.items():
        chosen = [rollout for rollout in rollouts if rollout.task == task]
        if not chosen:
            continue
        found[f"reward/{task}/rollouts"] = len(chosen)
        floors = {part.reward.name: part.reward.floor for part in parts}
        for key in ("score", *floors, *DIAGNOSTICS):
            values = np.array([rollout.values.get(key, np.nan) for rollout in chosen], dtype=float)
            if np.isnan(values).any():
                continue
            place = f"reward/{task}/{key}"
            found |= {f"{place}/mean": float(values.mean()), f"{place}/std": float(values.std())}
            if key in floors:
                found[f"{place}/floor_rate"] = float((values == floors[key]).mean())
            if key not in DIAGNOSTICS:
                found |= _within_groups(place, values, [rollout.group for rollout in chosen])
    return found


def _within_groups(place: str, values: np.ndarray, groups: Sequence[str]) -> dict[str, float]:
    members: dict[str, list[float]] = {}
    for group, value in zip(groups, values, strict=True):
        members.setdefault(group, []).append(value)
    spreads = [(np.std(group), np.ptp(group)) for group in members.values() if len(group) > 1]
    if not spreads:
        return {}
    deviation, width = np.array(spreads).T
    return {f"{place}/group_std": float(deviation.mean()), f"{place}/zero_spread_rate": float((width == 0).mean())}


def scorers_here(_worker: Any) -> dict[str, tuple[Counts, str | None]]:
    """Run in a reward worker: how each reward has fared there, and why it was given up, if it was.

    It is here because a worker that unpickles it imports its module, and verl's trainers take seconds to import.
    """
    return {name: (count, given_up(name)) for name, count in counts().items()}
