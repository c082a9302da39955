"""Metrics of every part of the reward, of a training step and of a validation; ``trainers`` gives them to verl.

Nothing here imports verl's trainers, which takes long: every reward worker imports this for :func:`scorer_counts`.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from reward_fns.calling import ROWS, Counts, counts
from reward_fns.registry import DIAGNOSTICS
from reward_fns.spec import RewardSpec


class ScoredRollout(NamedTuple):
    """One scored answer: its key, its group's prompt, the task and id of its sample, and compute_score's result."""

    key: str
    group: str
    task: str
    id: str
    values: Mapping[str, float]


def statistics(rollouts: Sequence[ScoredRollout], spec: RewardSpec, groups: int, group_size: int) -> dict[str, float]:
    """Metrics of one step of ``groups`` prompts with ``group_size`` rollouts each, from those that were scored.

    Per task, ``reward/<task>/<key>/<statistic>`` with key ``score`` or a reward's name:

    - ``mean`` and ``std`` over the task's rollouts, ``group_std`` the mean over groups of the spread within a group;
    - ``zero_spread_rate``: share of groups of two or more whose rollouts all have the same value;
    - ``floor_rate`` (rewards only): share of rollouts at the floor of the reward, earned or because the model failed.

    Diagnostics have ``mean`` and ``std`` only. NaN, of a reward of weight 0 that failed, is left out. A task without a
    rollout has no entries: a gap in a curve, not a zero. ``reward/failed_rollouts`` have no reward because something
    raised, ``reward/failed_share`` of all; ``reward/failed_groups`` lost at least one rollout.
    """
    complete = sum(size >= group_size for size in Counter(rollout.group for rollout in rollouts).values())
    metrics: dict[str, float] = {
        "reward/failed_rollouts": max(groups * group_size - len(rollouts), 0),
        "reward/failed_groups": max(groups - complete, 0),
    }
    metrics["reward/failed_share"] = metrics["reward/failed_rollouts"] / (groups * group_size)
    for task, parts in spec.tasks.items():
        of_task = [rollout for rollout in rollouts if rollout.task == task]
        if not of_task:
            continue
        metrics[f"reward/{task}/rollouts"] = len(of_task)
        floors = {part.reward.name: part.reward.floor for part in parts}
        for key in ("score", *floors, *DIAGNOSTICS):
            pairs = [(row.group, value) for row in of_task if not np.isnan(value := row.values.get(key, np.nan))]
            if not pairs:
                continue
            names, values = (np.array(column) for column in zip(*pairs, strict=True))
            prefix = f"reward/{task}/{key}"
            metrics |= {f"{prefix}/mean": float(values.mean()), f"{prefix}/std": float(values.std())}
            if key in floors:
                metrics[f"{prefix}/floor_rate"] = float((values == floors[key]).mean())
            members = [values[names == name] for name in dict.fromkeys(names)]
            several = [group for group in members if len(group) > 1]
            if several and key not in DIAGNOSTICS:
                metrics[f"{prefix}/group_std"] = float(np.mean([np.std(group) for group in several]))
                metrics[f"{prefix}/zero_spread_rate"] = float(np.mean([np.ptp(group) == 0 for group in several]))
    return metrics


def events(prefix: str, counted: Mapping[str, Counts], spec: RewardSpec) -> dict[str, float]:
    """Metrics of how often each reward failed and was tried again, and of rows that can't be scored."""
    names = [*spec.reward_names, *({ROWS} & counted.keys())]
    fared = {name.replace(" ", "_"): counted.get(name, Counts()) for name in names}
    metrics: dict[str, float] = {f"{prefix}/{name}/failures": count.failures for name, count in fared.items()}
    return metrics | {f"{prefix}/{name}/retries": count.retries for name, count in fared.items()}


def scorer_counts(_worker: Any) -> dict[str, Counts]:
    """Each reward's counters in the reward worker that runs this."""
    return counts()


class Columns(NamedTuple):
    """A validation as verl keeps it: one entry per rollout in each list; None where a rollout has no value."""

    sources: list[str]
    uids: list[str]
    values: dict[str, list[Any]]


def failed_rollouts(scored: Columns, expected: Mapping[tuple[str, str], int]) -> dict[str, float]:
    """Metrics of a validation's rollouts: how many there were, how many have no reward, and these by data source.

    ``expected`` maps data source and uid of each prompt to the number of its rollouts.
    """
    present = Counter(zip(scored.sources, scored.uids, strict=True))
    failed: Counter[str] = Counter()
    for (source, uid), count in expected.items():
        failed[source] += max(count - present[source, uid], 0)
    metrics: dict[str, float] = {
        "reward/validation/rollouts": sum(expected.values()),
        "reward/validation/failed_rollouts": failed.total(),
    }
    return metrics | {f"val-aux/{source}/failed_rollouts": count for source, count in failed.items()}


def without_nan(column: Sequence[Any]) -> list[Any]:
    """The column with None for every NaN."""
    return [None if isinstance(value, float) and math.isnan(value) else value for value in column]
