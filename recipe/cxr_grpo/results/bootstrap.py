"""Means of per-sample rewards and their differences, with bootstrap intervals over patients."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 10_000


class Estimate(NamedTuple):
    """A mean over ``n`` samples with its 95 % percentile interval."""

    mean: float
    n: int
    ci95: tuple[float, float]


def estimate(values: Sequence[float], patients: Sequence[str], seed: int = 0) -> Estimate:
    """Mean of ``values`` with a cluster bootstrap over ``patients``: whole patients are drawn with replacement.

    Films of one patient are not independent, so resampling films would give too narrow an interval. Raises ValueError
    without values, for a NaN or infinite one, or if there is not one patient for each.

    >>> estimate([0.0, 1.0, 0.5], ["a", "a", "b"]).mean
    0.5
    """
    if len(values) != len(patients) or not len(values):
        raise ValueError(f"need values, each with its patient; got {len(values)} values, {len(patients)} patients")
    numbers = np.asarray(values, dtype=float)
    if not np.isfinite(numbers).all():
        raise ValueError("a reward is NaN or infinite")
    _, cluster = np.unique(np.asarray(patients), return_inverse=True)
    totals, sizes = np.bincount(cluster, weights=numbers), np.bincount(cluster)
    draws = np.random.default_rng(seed).integers(len(sizes), size=(RESAMPLES, len(sizes)))
    means = totals[draws].sum(axis=1) / sizes[draws].sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Estimate(float(numbers.mean()), len(numbers), (float(low), float(high)))


def paired(before: Mapping[str, float], after: Mapping[str, float], patients: Mapping[str, str]) -> Estimate:
    """Mean of ``after - before`` (sample id -> reward; the same ids), with its paired bootstrap interval."""
    if before.keys() != after.keys():
        missing = sorted(before.keys() ^ after.keys())
        raise ValueError(f"{len(missing)} samples are in only one of the two evaluations, e.g. {missing[0]}")
    ids = sorted(before)
    return estimate([after[i] - before[i] for i in ids], [patients[i] for i in ids])
