import numpy as np
import pytest

from recipe.cxr_grpo.results.validation import estimate, paired


def test_mean_and_interval_of_independent_samples_match_the_normal_approximation():
    values = np.random.default_rng(1).normal(0.5, 0.1, 400)
    result = estimate(list(values), [str(i) for i in range(400)])
    assert result.mean == pytest.approx(values.mean())
    half = 1.96 * values.std(ddof=1) / 20
    assert result.ci95[0] == pytest.approx(values.mean() - half, abs=0.002)
    assert result.ci95[1] == pytest.approx(values.mean() + half, abs=0.002)


def test_films_of_one_patient_count_once():
    values = [0.0, 1.0] * 20
    alone = estimate(values, [str(i) for i in range(40)])
    repeated = estimate([v for v in values for _ in range(5)], [str(i) for i in range(40) for _ in range(5)])
    assert repeated.n == 200
    width = [interval[1] - interval[0] for interval in (alone.ci95, repeated.ci95)]
    assert width[1] == pytest.approx(width[0], rel=0.05)


def test_pairing_removes_what_both_evaluations_share():
    rng = np.random.default_rng(2)
    before = {str(i): float(v) for i, v in enumerate(rng.uniform(0, 1, 200))}
    after = {i: v + 0.05 for i, v in before.items()}
    result = paired(before, after, {i: i for i in before})
    assert result.mean == pytest.approx(0.05)
    assert result.ci95 == pytest.approx((0.05, 0.05))


def test_different_samples_are_refused():
    with pytest.raises(ValueError, match=r"1 samples are in only one of the two evaluations, e\.g\. b"):
        paired({"a": 0.0}, {"a": 0.0, "b": 1.0}, {"a": "p", "b": "p"})


@pytest.mark.parametrize(("values", "patients"), [([], []), ([1.0], []), ([float("nan")], ["p"])])
def test_nothing_to_average_or_not_finite_is_refused(values, patients):
    with pytest.raises(ValueError):
        estimate(values, patients)
