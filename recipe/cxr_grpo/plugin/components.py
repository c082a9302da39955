"""Metrics of every part of the reward, of a training step and of a validation; ``trainers`` gives them to verl.

Nothing here imports verl's trainers, which takes long: every reward worker imports this for :func:`scorer_counts`.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from reward_fns.calling import Counts, counts, given_up
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
    raised; ``reward/failed_groups`` lost at least one rollout.
    """
    complete = sum(size >= group_size for size in Counter(rollout.group for rollout in rollouts).values())
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


def scorer_counts(_worker: Any) -> dict[str, tuple[Counts, str | None]]:
    """Each reward's counters in the reward worker that runs this, and why it was given up, if it was."""
    return {name: (count, given_up(name)) for name, count in counts().items()}


class Columns(NamedTuple):
    """A validation as verl keeps it: one entry per rollout in each list; None where a rollout has no value."""

    sources: list[str]
    uids: list[str]
    values: dict[str, list[Any]]


def with_failures(
    scored: Columns, expected: Mapping[tuple[str, str], int], spec: RewardSpec
) -> tuple[Columns, dict[str, float]]:
    """A validation's columns with a row for each rollout that has no reward, and the counts of these as metrics.

    verl 0.9.1 leaves failed rollouts out of every metric but ``acc``, where each counts 0: better than the truth if
    rewards are negative (metric_utils.py:955). Here each counts the floor of its task's rewards in ``acc``;
    ``acc_success_only`` is the mean without them. NaN, a component of another task, becomes None: verl leaves
    it out. ``expected`` maps data source and uid of each prompt to the number of its rollouts.
    """
    sources, uids = list(scored.sources), list(scored.uids)
    values = {key: without_nan(column) for key, column in scored.values.items()}
    acc = values.setdefault("acc", [None] * len(uids))
    succeeded = list(acc)
    present = Counter(zip(sources, uids, strict=True))
    failed: Counter[str] = Counter()
    for (source, uid), count in expected.items():
        missing = max(count - present[source, uid], 0)
        failed[source] += missing
        sources += [source] * missing
        uids += [uid] * missing
        task = source.rpartition("/")[2]  # data source <set>/<task>; it may be any task if this names none
        parts = [spec.tasks[task]] if task in spec.tasks else list(spec.tasks.values())
        acc += [min(math.fsum(part.weight * part.reward.floor for part in some) for some in parts)] * missing
    for column in (*values.values(), succeeded):
        column += [None] * (len(uids) - len(column))
    metrics: dict[str, float] = {
        "reward/validation/rollouts": sum(expected.values()),
        "reward/validation/failed_rollouts": failed.total(),
    }
    metrics |= {f"val-aux/{source}/failed_rollouts": count for source, count in failed.items()}
    return Columns(sources, uids, values | {"acc_success_only": succeeded}), metrics


def without_nan(column: Sequence[Any]) -> list[Any]:
    """The column with None for every NaN."""
    return [None if isinstance(value, float) and math.isnan(value) else value for value in column]
