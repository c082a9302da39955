import numpy as np
import pytest
from made_results import FIVE, f1

from recipe.cxr_grpo.results import intervals, tables
from recipe.cxr_grpo.results.intervals import Statistic, bootstrap, holm, interval, mean_of


def clustered(rng, patients, change=0.5):
    """Values of 1 to 5 films a patient, alike within one; the mean over films is `change`."""
    sizes = rng.integers(1, 6, size=patients)
    level = rng.normal(change, 1, size=patients)
    values = np.repeat(level, sizes) + rng.normal(0, 0.3, size=sizes.sum())
    return values, [str(i) for i in np.repeat(np.arange(patients), sizes)]


def test_draws_are_those_of_a_loop_over_patients():
    values, patients = clustered(np.random.default_rng(3), 12)
    values[5] = np.nan
    mean, draws = bootstrap({"": mean_of(values)}, patients, 50, seed=7)[""]
    assert mean == pytest.approx(np.nanmean(values))
    names = sorted(set(patients))
    rng = np.random.default_rng(7)
    for draw in draws:
        chosen = [names[i] for i in rng.integers(len(names), size=len(names))]
        drawn = [v for name in chosen for v, of in zip(values, patients, strict=True) if of == name and not np.isnan(v)]
        assert draw == pytest.approx(np.mean(drawn))


def test_the_size_of_parts_in_memory_changes_nothing(monkeypatch):
    values, patients = clustered(np.random.default_rng(3), 13)
    whole = bootstrap({"": mean_of(values)}, patients, 41)[""][1]
    monkeypatch.setattr(intervals, "_CHUNK", 30)
    assert bootstrap({"": mean_of(values)}, patients, 41)[""][1] == pytest.approx(whole)


def labels(seed, count=40):
    pairs = np.random.default_rng(seed).random((count, 2, 14)) < np.linspace(0, 0.5, 14)  # the first is never there
    return pairs, np.hstack([pairs.prod(axis=1), pairs.sum(axis=1)])


@pytest.mark.parametrize("kind", ["micro", "macro"])
@pytest.mark.parametrize("chosen", [range(14), FIVE])
def test_f1_of_a_draw_is_f1_of_the_drawn_samples(kind, chosen):
    pairs, columns = labels(1)
    part = [*chosen, *(14 + label for label in chosen)]
    patients = [str(i // 2) for i in range(40)]
    value, draws = bootstrap({"": Statistic(columns[:, part], kind)}, patients, 20)[""]
    assert value == pytest.approx(f1(pairs.tolist(), chosen, kind))
    rng = np.random.default_rng(0)
    names, places = np.unique(patients, return_inverse=True)
    for draw in draws:
        drawn = [pairs[i].tolist() for name in rng.integers(20, size=20) for i in np.flatnonzero(places == name)]
        assert draw == pytest.approx(f1(drawn, chosen, kind))
    assert len(names) == 20


@pytest.mark.parametrize("kind", ["micro", "macro"])
def test_f1_is_scikit_learns(kind):
    metrics = pytest.importorskip("sklearn.metrics")
    pairs, columns = labels(2)
    expected = metrics.f1_score(pairs[:, 1], pairs[:, 0], average=kind, zero_division=0)
    assert Statistic(columns, kind).of(columns.sum(axis=0)) == pytest.approx(expected)


def test_the_interval_covers_the_truth_of_clustered_films_and_one_over_films_does_not():
    rng, covered, alone = np.random.default_rng(5), [], []
    for _ in range(200):
        values, patients = clustered(rng, 60)
        for found, names in ((covered, patients), (alone, [str(i) for i in range(len(values))])):
            low, high = interval(bootstrap({"": mean_of(values)}, names, 400)[""][1])
            found.append(low <= 0.5 <= high)
    assert 0.90 <= np.mean(covered) <= 0.98
    assert np.mean(alone) < 0.85


def test_a_test_finds_no_more_than_it_promises_where_there_is_nothing():
    rng, found = np.random.default_rng(6), []
    for _ in range(300):
        values, patients = clustered(rng, 60, change=0.0)
        change, draws = bootstrap({"": mean_of(values)}, patients, 300)[""]
        found.append(tables.p_value(change, draws))
    assert 0.02 <= np.mean(np.array(found) < 0.05) <= 0.09
    assert 0.4 < np.mean(found) < 0.6


def test_no_change_at_all_and_the_same_change_everywhere():
    assert tables.p_value(0.0, np.zeros(10)) == 1
    assert tables.p_value(0.1, np.full(10, 0.1)) == 0


def test_holm_corrects_for_the_number_and_keeps_the_order():
    assert holm([0.02, 0.5, 0.001, 0.02]) == pytest.approx([0.06, 0.5, 0.004, 0.06])
    assert holm([0.7, 0.6]) == pytest.approx([1, 1])
    assert len(holm([])) == 0


def test_a_metric_that_applies_to_no_drawn_sample_does_not_spoil_the_interval():
    values = [0.5, np.nan, np.nan]
    _, draws = bootstrap({"": mean_of(values)}, ["a", "b", "c"], 200)[""]
    assert np.isnan(draws).any()
    assert interval(draws) == (0.5, 0.5)
