import math
import random

import pytest

from reward_fns import calling as failures
from reward_fns.calling import Counts, begin, counts, failed, forget, given_up, succeeded
from reward_fns.errors import ScorerUnavailable, UsageError
from reward_fns.settings import FailureRules

real_pause = FailureRules.pause  # the fixture of this folder takes the waiting out


def fail(times, cause="no server", stop_after=3):
    for place in begin("judge", times):
        failed(ScorerUnavailable("judge", f"p{place}", cause), 2, place, stop_after=stop_after)


def succeed(times):
    for _ in begin("judge", times):
        succeeded("judge", retries=1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"retries": -1}, "retries must be a whole number from 0 to 1000, got -1"),
        ({"retries": 1.5}, "retries must be a whole number"),
        ({"stop_after": 0}, "stop_after must be a whole number from 1"),
        ({"max_rate": 10}, "max_rate must be a finite number from 0 to 1"),
        ({"window": 0}, "window must be a whole number from 1"),
        ({"stop_after": True}, "stop_after must be a whole number"),
        ({"concurrency": 0}, "concurrency must be a whole number from 1"),
        ({"timeout": 0}, "timeout must be a finite number from 0.001"),
        ({"timeout": math.nan}, "timeout must be a finite number from 0.001"),
        ({"timeout": None}, "timeout must be a finite number from 0.001"),
        ({"timeout": math.inf}, "timeout must be a finite number from 0.001"),
        ({"backoff": -1}, "backoff must be a finite number from 0 to"),
        ({"backoff": "1"}, "backoff must be a finite number"),
    ],
)
def test_rules_out_of_range(values, message):
    with pytest.raises(UsageError, match=message):
        FailureRules(**values)


def test_pauses_double_and_differ_and_leave_seeded_random_numbers_alone():
    rules = FailureRules(backoff=2.0)
    random.seed(0)
    expected = random.Random(0).random()
    pauses = [[real_pause(rules, retry) for _ in range(50)] for retry in range(3)]
    assert random.random() == expected
    for retry, values in enumerate(pauses):
        assert all(1.5 * 2**retry <= value <= 2.5 * 2**retry for value in values) and len(set(values)) > 1
    assert real_pause(FailureRules(backoff=0), 5) == 0.0


def test_a_success_starts_the_row_again():
    fail(2)
    succeed(1)
    fail(2)
    assert given_up("judge") is None
    assert counts()["judge"] == Counts(5, 9, 4, 2, {"no server": 4}, "")


@pytest.mark.parametrize("samples", [128, 512, 4096])
def test_failures_that_end_last_because_of_their_retries_are_not_in_a_row(samples):
    places = begin("judge", samples)
    failing = places[::5]
    for _ in range(samples - len(failing)):
        succeeded("judge")
    for place in failing:  # a fifth, each after its retries
        failed(ScorerUnavailable("judge", f"p{place}", "no server"), 2, place, stop_after=20)
    assert given_up("judge") is None and counts()["judge"].failures == len(failing)


def test_a_row_counts_in_any_order_of_ending():
    places = list(begin("judge", 40))
    random.Random(0).shuffle(places)
    for place in places[:39]:
        failed(ScorerUnavailable("judge", f"p{place}", "no server"), 2, place, stop_after=40)
    assert given_up("judge") is None
    failed(ScorerUnavailable("judge", "last", "no server"), 2, places[39], stop_after=40)
    assert "given up after 40 failures in a row" in given_up("judge")


def test_one_sample_with_many_rollouts_is_no_dead_scorer():
    for place in begin("judge", 64):
        failed(ScorerUnavailable("judge", "p7", "can't read it"), 2, place, stop_after=20)
    assert given_up("judge") is None
    fail(1, stop_after=20)
    assert "given up after 65 failures in a row" in given_up("judge")


def test_given_up_after_a_row_and_for_good():
    fail(2, cause="something else")
    fail(1, cause="connection refused")
    message = given_up("judge")
    assert message.startswith("given up after 3 failures in a row, the last: connection refused, on sample 'p2'")
    assert "fix the cause" in message
    succeed(1)
    fail(4, cause="given up", stop_after=100)  # neither a straggler's success nor another spec reopens it
    assert given_up("judge") == message
    assert counts()["judge"].causes == {"something else": 2, "connection refused": 1}
    assert given_up("another") is None
    forget()
    assert given_up("judge") is None and counts() == {}


def test_only_so_many_causes_are_kept_and_each_is_short():
    for number in range(30):
        fail(1, cause=f"{number} " + "x" * 1000, stop_after=1000)
    causes = counts()["judge"].causes
    assert len(causes) == 10 and max(map(len, causes)) == 200


def test_counts_of_two_workers_together():
    both = Counts(3, 1, 2, 2, {"a": 2}) + Counts(4, 0, 1, 0, {"a": 1, "b": 1}, "dead")
    assert both == Counts(7, 1, 3, 2, {"a": 3, "b": 1}, "dead")


def test_counts_are_a_copy():
    fail(1)
    counts().clear()
    assert failures.counts()["judge"].failures == 1
