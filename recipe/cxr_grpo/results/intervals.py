"""Intervals over patients: of means and F1 of a whole set, functions of sums over samples, and of any function."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

Key = TypeVar("Key")
OfWeights = Callable[[np.ndarray], np.ndarray]  # how often draws have samples (draws, samples; int) -> their values
_CHUNK = 2**20  # weights of samples in memory at once


class Statistic(NamedTuple):
    """A metric of a set of samples, by what each adds to sums (samples x k).

    Kinds: ``mean`` of values and how many there are; ``inverse``, one over that; ``micro`` and ``macro`` F1 of the hits
    and the positives in prediction and reference of several labels, as scikit-learn's with zero_division=0.
    """

    columns: np.ndarray
    kind: str = "mean"

    def of(self, sums: np.ndarray) -> np.ndarray:
        """The values for sums of shape (..., k)."""
        first, second = np.split(sums, 2, axis=-1)
        if self.kind == "micro":
            first, second = (part.sum(axis=-1, keepdims=True) for part in (first, second))
        if self.kind in ("micro", "macro"):
            return (2 * first / np.where(second > 0, second, 1)).mean(axis=-1)
        with np.errstate(invalid="ignore", divide="ignore"):  # a draw in which the metric applies to no sample
            return (second / first if self.kind == "inverse" else first / second)[..., 0]


def mean_of(values: Sequence[float] | np.ndarray, kind: str = "mean") -> Statistic:
    """The mean of the values that are not NaN; to the other samples the metric does not apply."""
    applies = ~np.isnan(numbers := np.asarray(values, dtype=float))
    return Statistic(np.stack([np.where(applies, numbers, 0.0), applies], axis=1), kind)


def bootstrap(
    statistics: Mapping[Key, Statistic | OfWeights], patients: Sequence[str], resamples: int, seed: int = 0
) -> dict[Key, tuple[float, np.ndarray]]:
    """Each statistic's value, and its values in draws of whole patients: films of one patient are not independent.

    All statistics are of the same samples and see the same draws, so that the difference of two is paired.
    """
    names, places = np.unique(np.asarray(patients), return_inverse=True)
    summed = {key: of for key, of in statistics.items() if isinstance(of, Statistic)}
    others = {key: (of, np.empty(resamples)) for key, of in statistics.items() if not isinstance(of, Statistic)}
    columns = np.hstack([np.empty((len(places), 0)), *(of.columns for of in summed.values())])
    np.add.at(sums := np.zeros((len(names), columns.shape[1])), places, columns)
    drawn, rng = np.empty((resamples, columns.shape[1])), np.random.default_rng(seed)
    for start in range(0, resamples, size := max(1, _CHUNK // len(places))):
        shape = min(size, resamples - start), len(names)
        chosen = rng.integers(len(names), size=shape) + np.arange(shape[0])[:, None] * len(names)
        weights = np.bincount(chosen.ravel(), minlength=chosen.size).reshape(shape)
        drawn[start : start + size] = weights @ sums
        for of, draws in others.values():
            draws[start : start + size] = of(weights[:, places])
    ends = np.cumsum([0, *(of.columns.shape[1] for of in summed.values())])[:-1]
    parts = zip(summed.items(), np.split(sums.sum(axis=0), ends)[1:], np.split(drawn, ends, axis=1)[1:], strict=True)
    values = {key: (float(of(np.ones((1, len(places)), dtype=int))[0]), draws) for key, (of, draws) in others.items()}
    return values | {key: (float(of.of(total)), of.of(draws)) for (key, of), total, draws in parts}


def interval(draws: np.ndarray) -> tuple[float, float]:
    """The 95 % percentile interval; NaN among the draws does not count."""
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """p-values corrected for their number after Holm (1979), in the same order.

    >>> holm([0.01, 0.04, 0.03]).round(2).tolist()
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values)
    corrected = np.asarray(p_values, dtype=float)[order] * np.arange(len(order), 0, -1)
    return np.maximum.accumulate(corrected.clip(max=1))[np.argsort(order)]
