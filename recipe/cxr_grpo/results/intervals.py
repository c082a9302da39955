"""Intervals and tests over patients, for every metric that is a function of sums over samples.

Films of one patient are not independent, so whole patients are drawn (bootstrap) or exchange two models' answers
(approximate randomization). A draw is a row of weights times the matrix of the patients' sums.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

Key = TypeVar("Key")
_CHUNK = 2**20  # weights in memory at once


class Statistic(NamedTuple):
    """A metric of a set: what each sample adds to its sums (samples x k), how many it applies to, and its kind.

    Kinds: ``mean`` of sums and counts; ``inverse`` of that; ``micro`` and ``macro`` F1 of hits and positives of labels.
    """

    columns: np.ndarray
    n: int
    kind: str = "mean"

    def of(self, sums: np.ndarray) -> np.ndarray:
        """The values for sums of shape (..., k); F1 as scikit-learn's with zero_division=0."""
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
    return Statistic(np.stack([np.where(applies, numbers, 0.0), applies], axis=1), int(applies.sum()), kind)


def bootstrap(
    statistics: Mapping[Key, Statistic], patients: Sequence[str], resamples: int, seed: int = 0
) -> dict[Key, tuple[float, np.ndarray]]:
    """Each statistic's value, and its values in ``resamples`` draws of patients with replacement.

    All statistics are of the same samples and see the same draws, so that the difference of two is paired.
    """
    sums = _by_patient([statistic.columns for statistic in statistics.values()], patients)
    drawn, start, found = np.concatenate([*_drawn(sums, resamples, seed)]), 0, {}
    for key, statistic in statistics.items():
        part = slice(start, start := start + statistic.columns.shape[1])
        found[key] = float(statistic.of(sums[:, part].sum(axis=0))), statistic.of(drawn[:, part])
    return found


def randomization(
    pairs: Mapping[Key, tuple[Statistic, Statistic]], patients: Sequence[str], permutations: int, seed: int = 0
) -> dict[Key, float]:
    """Two-sided p of each pair's difference, if which of the two gave a patient's answers is drawn at random.

    At least 1 / (1 + permutations), as the answers as they are count as a permutation.
    """
    gaps = _by_patient([(first.columns - second.columns) / 2 for first, second in pairs.values()], patients)
    extreme = dict.fromkeys(pairs, 1)
    for moved in _drawn(gaps, permutations, seed, signs=True):
        start = 0
        for key, (first, second) in pairs.items():
            part = slice(start, start := start + first.columns.shape[1])
            center = (first.columns + second.columns).sum(axis=0) / 2
            shifts = gaps[:, part].sum(axis=0), moved[:, part]
            observed, drawn = (np.abs(first.of(center + shift) - first.of(center - shift)) for shift in shifts)
            extreme[key] += int((drawn >= observed - 1e-12).sum())
    return {key: count / (1 + permutations) for key, count in extreme.items()}


def holm(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """p-values corrected for their number after Holm (1979).

    >>> holm({"a": 0.01, "b": 0.04, "c": 0.03})
    {'a': 0.03, 'c': 0.06, 'b': 0.06}
    """
    corrected, highest = {}, 0.0
    for place, key in enumerate(sorted(p_values, key=p_values.__getitem__)):
        corrected[key] = highest = max(highest, min(1.0, (len(p_values) - place) * p_values[key]))
    return corrected


def interval(draws: np.ndarray) -> tuple[float, float]:
    """The 95 % percentile interval; NaN among the draws does not count."""
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return float(low), float(high)


def _by_patient(columns: Sequence[np.ndarray], patients: Sequence[str]) -> np.ndarray:
    names, places = np.unique(np.asarray(patients), return_inverse=True)
    sums = np.zeros((len(names), sum(part.shape[1] for part in columns)))
    np.add.at(sums, places, np.hstack(columns))
    return sums


def _drawn(sums: np.ndarray, draws: int, seed: int, signs: bool = False) -> Iterator[np.ndarray]:
    """Sums of patients drawn with replacement, or with random signs, in parts: together draws x k."""
    rng, patients = np.random.default_rng(seed), len(sums)
    for start in range(0, draws, size := max(1, _CHUNK // patients)):
        shape = min(size, draws - start), patients
        if signs:
            yield (rng.integers(2, size=shape) * 2.0 - 1) @ sums
        else:
            places = rng.integers(patients, size=shape) + np.arange(shape[0])[:, None] * patients
            yield np.bincount(places.ravel(), minlength=places.size).reshape(shape) @ sums
