import pytest

from recipe.cxr_grpo.plugin.failure_rates import FailureRates, causes_of, since, total
from reward_fns.calling import Counts
from reward_fns.spec import resolve

SPEC = {"report": [{"name": "gleu"}, {"name": "rouge_l", "weight": 0}]}


def rates(rollouts_per_step=100, **rules):
    return FailureRates(resolve(SPEC | {"failures": rules}), rollouts_per_step)


def steps(found, shares, *, name="gleu", size=100):
    """End steps in which these shares of a reward's samples failed; returns the verdict of each."""
    samples = failures = 0
    verdicts = []
    for share in shares:
        samples, failures = samples + size, failures + round(share * size)
        now = {name: Counts(samples, failures=failures, causes={"down": failures} if failures else {})}
        verdicts.append(found.end_step(now, 0, size))
    return verdicts


def test_a_fifth_failing_for_three_steps_ends_a_run_and_one_bad_step_does_not():
    assert [bool(verdict) for verdict in steps(rates(), [0.2, 0.2, 0.2])] == [False, False, True]
    assert steps(rates(), [0.25, 0.0, 0.0, 0.05, 0.25, 0.0]) == [None] * 6


def test_the_message_has_reward_share_limit_and_cause():
    assert steps(rates(), [0.2] * 3)[-1] == (
        "reward 'gleu' failed on 60 of 300 rollouts in the last 3 steps (20%); the spec's failures.max_rate is 10%. "
        "Failures: gleu 60 (down)"
    )


def test_the_window_forgets_what_is_older():
    verdicts = steps(rates(window=2), [0.09, 0.09, 0.0, 0.0, 0.2, 0.2])
    assert [bool(verdict) for verdict in verdicts] == [False] * 5 + [True]


def test_rates_are_over_all_workers():
    sound, broken = {"gleu": Counts(150)}, {"gleu": Counts(150, failures=60, causes={"down": 60})}
    found = rates(window=1)
    assert found.end_step(total([sound, broken]), 0, 300).startswith("reward 'gleu' failed on 60 of 300 rollouts")


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_a_reward_that_only_watches_never_ends_a_run(share):
    assert steps(rates(), [share] * 5, name="rouge_l") == [None] * 5
    assert rates().dead({"rouge_l": Counts(9, failures=9, given_up="gone")}) is None


def test_rollouts_lost_for_any_other_cause_count_too():
    found = rates()
    verdicts = [found.end_step({"gleu": Counts(100 * (i + 1))}, 20, 100) for i in range(3)]
    assert verdicts[:2] == [None, None]
    assert "no reward for 60 of 300 rollouts in the last 3 steps (20%)" in verdicts[2]
    assert "none of a reward: see the log" in verdicts[2]


def test_a_step_that_never_ends_is_judged_by_as_many_samples():
    found = rates(rollouts_per_step=8)
    assert found.exceeded({"gleu": Counts(23, failures=12)}) is None
    assert "failed on 12 of 24" in found.exceeded({"gleu": Counts(24, failures=12)})


def test_a_validation_between_steps_is_left_out_of_them():
    found = rates()
    before = {"gleu": Counts(100)}
    found.end_step(before, 0, 100)
    after = {"gleu": Counts(1100, failures=90, causes={"down": 90})}
    found.leave_out(before, after)
    for number in (1, 2):
        now = {"gleu": Counts(1100 + 100 * number, failures=90 + 10 * number)}
        assert found.end_step(now, 0, 100) is None  # 20 of 300, without the validation's 90 of 1,000


def test_a_validation_has_the_same_limit():
    found = rates()
    assert found.of_validation(10, 100, {}) is None
    assert "no reward for 11 of 100 rollouts of a validation (11%)" in found.of_validation(11, 100, {})
    assert found.of_validation(0, 100, {"gleu": Counts(given_up="given up")}) == "reward 'gleu': given up"


def test_what_was_counted_since_a_worker_that_started_again():
    start = {"gleu": Counts(50, 2, 5, causes={"down": 5})}
    assert since(start, {"gleu": Counts(60, 3, 6, causes={"down": 5, "nan": 1})})["gleu"] == Counts(
        10, 1, 1, 0, {"nan": 1}
    )
    assert since(start, {"gleu": Counts(4)})["gleu"] == Counts()


def test_causes_name_the_most_frequent_one():
    counted = {"gleu": Counts(9, failures=3, causes={"nan": 1, "down": 2}), "rouge_l": Counts(9)}
    assert causes_of(counted) == "gleu 3 (down)"
