"""The rows of one of verl's validations, completed so that verl's own metrics of them are right."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from reward_fns.spec import RewardSpec


class Columns(NamedTuple):
    """A validation as verl keeps it: one entry per rollout in each list; None where a rollout has no value."""

    sources: list[str]
    uids: list[str]
    values: dict[str, list[Any]]


def with_failures(
    scored: Columns, expected: Mapping[tuple[str, str], int], spec: RewardSpec
) -> tuple[Columns, dict[str, float]]:
    """The columns with a row for every rollout that has no reward, and counts of these.

    verl 0.9.1 leaves failed rollouts out of every metric but ``acc``, where each counts 0: better than the truth if
    rewards are negative (metric_utils.py:955). Here each counts as an answer of a failed model does, the floor of its
    task's rewards; ``acc_success_only`` is the mean without them, as in verl. NaN, a component of another task, becomes
    None: verl leaves None out of its means, and a component without any value out of its metrics.

    Args:
        scored: the rollouts with a reward.
        expected: data source and uid of each prompt -> number of its rollouts.
        spec: the rewards that scored them.

    Returns:
        the completed columns, and the metrics ``reward/validation/rollouts`` (asked for),
        ``reward/validation/failed_rollouts`` and, per data source, ``val-aux/<data source>/failed_rollouts``.

    >>> from reward_fns.spec import resolve
    >>> spec = resolve({"report": [{"name": "gleu"}, {"name": "overlong"}]})
    >>> scored = Columns(["a/report"], ["p1"], {"acc": [-0.5], "box_iou": [math.nan]})
    >>> columns, counts = with_failures(scored, {("a/report", "p1"): 1, ("a/report", "p2"): 1}, spec)
    >>> columns.values
    {'acc': [-0.5, -1.0], 'box_iou': [None, None], 'acc_success_only': [-0.5, None]}
    >>> counts["reward/validation/failed_rollouts"], counts["reward/validation/rollouts"]
    (1, 2)
    """
    sources, uids = list(scored.sources), list(scored.uids)
    values = {key: without_nan(column) for key, column in scored.values.items()}
    acc = values.setdefault("acc", [None] * len(uids))
    present = Counter(zip(sources, uids, strict=True))
    succeeded = list(acc)
    failed: Counter[str] = Counter()
    for (source, uid), count in expected.items():
        missing = max(count - present[source, uid], 0)
        failed[source] += missing
        sources += [source] * missing
        uids += [uid] * missing
        acc += [floor_score(source, spec)] * missing
    for column in (*values.values(), succeeded):
        column += [None] * (len(uids) - len(column))
    counts: dict[str, float] = {
        "reward/validation/rollouts": sum(expected.values()),
        "reward/validation/failed_rollouts": failed.total(),
    }
    counts |= {f"val-aux/{source}/failed_rollouts": count for source, count in failed.items()}
    return Columns(sources, uids, values | {"acc_success_only": succeeded}), counts


def floor_score(source: str, spec: RewardSpec) -> float:
    """The score of a failed model's answer, for data source ``<set>/<task>``; of any task if it names none."""
    task = source.rpartition("/")[2]
    tasks: Sequence[str] = [task] if task in spec.tasks else list(spec.tasks)
    return min(math.fsum(part.weight * part.reward.floor for part in spec.tasks[task]) for task in tasks)


def without_nan(column: Sequence[Any]) -> list[Any]:
    """The column with None for every NaN."""
    return [None if isinstance(value, float) and math.isnan(value) else value for value in column]
