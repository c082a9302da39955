"""Metrics of every part of the reward over one training step's rollouts; ``trainers`` gives them to verl."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reward_fns.failures import Counts, counts, given_up
from reward_fns.registry import DIAGNOSTICS
from reward_fns.spec import RewardSpec


@dataclass(frozen=True)
class ScoredRollout:
    """One scored answer: its key, its group's prompt, the task and id of its sample, and compute_score's result."""

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
    - ``floor_rate`` (rewards only): share of rollouts at the floor of the reward, earned or because the model failed.

    Diagnostics such as ``answer_chars`` and ``model_failed`` have ``mean`` and ``std``. ``reward/<task>/rollouts`` is
    the number of rollouts. A rollout that a reward of weight 0 failed on has NaN there and is left out of that reward's
    statistics. A task without a rollout has no entries: a gap in a curve, not a zero.

    ``reward/failed_rollouts`` and ``reward/failed_groups`` count what has no reward because scoring (or anything else
    in a rollout) raised; a group is failed if it lost at least one rollout. The trainer adds which reward it was, as
    ``reward/scorers/<reward>/failures`` and ``…/retries`` of this step.

    Args:
        rollouts: those that were scored.
        spec: the rewards that scored them.
        groups, group_size: number of prompts of the step, and number of rollouts of each.

    >>> from reward_fns.spec import resolve
    >>> def rollout(session, value):
    ...     return ScoredRollout(f"a_{session}_0", "a", "report", "p1", {"score": value, "gleu": value})
    >>> metrics = statistics([rollout(0, 0.0), rollout(1, 1.0)], resolve({"report": [{"name": "gleu"}]}), 2, 2)
    >>> [metrics[f"reward/report/gleu/{name}"] for name in ("mean", "std", "floor_rate", "zero_spread_rate")]
    [0.5, 0.5, 0.5, 0.0]
    >>> metrics["reward/failed_rollouts"], metrics["reward/failed_groups"]
    (2, 1)
    """
    sizes = Counter(rollout.group for rollout in rollouts)
    complete = sum(size >= group_size for size in sizes.values())
    metrics: dict[str, float] = {
        "reward/failed_rollouts": max(groups * group_size - len(rollouts), 0),
        "reward/failed_groups": max(groups - complete, 0),
    }
    for task, parts in spec.tasks.items():
        of_task = [rollout for rollout in rollouts if rollout.task == task]
        if not of_task:
            continue
        metrics[f"reward/{task}/rollouts"] = len(of_task)
        floors = {part.reward.name: part.reward.floor for part in parts}
        for key in ("score", *floors, *DIAGNOSTICS):
            pairs = [(rollout.values.get(key, np.nan), rollout.group) for rollout in of_task]
            pairs = [(value, group) for value, group in pairs if not np.isnan(value)]
            if not pairs:
                continue
            values = np.array([value for value, _ in pairs])
            prefix = f"reward/{task}/{key}"
            metrics |= {f"{prefix}/mean": float(values.mean()), f"{prefix}/std": float(values.std())}
            if key in floors:
                metrics[f"{prefix}/floor_rate"] = float((values == floors[key]).mean())
            if key not in DIAGNOSTICS:
                metrics |= {f"{prefix}/{name}": value for name, value in _within_groups(pairs).items()}
    return metrics


def _within_groups(pairs: Sequence[tuple[float, str]]) -> dict[str, float]:
    members: dict[str, list[float]] = {}
    for value, group in pairs:
        members.setdefault(group, []).append(value)
    spreads = [(np.std(group), np.ptp(group)) for group in members.values() if len(group) > 1]
    if not spreads:
        return {}
    deviation, width = np.array(spreads).T
    return {"group_std": float(deviation.mean()), "zero_spread_rate": float((width == 0).mean())}


def scorer_counts(_worker: Any) -> dict[str, tuple[Counts, str | None]]:
    """Each reward's counters in the reward worker that runs this, and why it was given up, if it was.

    It is in this module because a worker that unpickles it imports the module, and verl's trainers import slowly.
    """
    return {name: (count, given_up(name)) for name, count in counts().items()}
