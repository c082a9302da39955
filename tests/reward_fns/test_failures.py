import math
import random

import pytest

from reward_fns import calling as failures
from reward_fns.calling import Counts, counts, failed, forget, given_up, succeeded
from reward_fns.errors import ScorerUnavailable, UsageError
from reward_fns.settings import FailureRules

real_pause = FailureRules.pause  # the fixture of this folder takes the waiting out


def fail(times, cause="no server", stop_after=3):
    for number in range(times):
        failed(ScorerUnavailable("judge", f"p{number}", cause), retries=2, stop_after=stop_after)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"retries": -1}, "retries must be a whole number from 0 to 1000, got -1"),
        ({"retries": 1.5}, "retries must be a whole number"),
        ({"stop_after": 0}, "stop_after must be a whole number from 1"),
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
    succeeded("judge", retries=1)
    fail(2)
    assert given_up("judge") is None
    assert counts()["judge"] == Counts(5, 9, 4, 2, "no server, on sample 'p0'", False)


def test_given_up_after_a_row_and_for_good():
    fail(2, cause="connection refused")
    fail(1, cause="something else")
    message = given_up("judge")
    assert message.startswith("given up after 3 failures in a row, of which the first was: connection refused, on samp")
    assert "fix the cause" in message
    succeeded("judge")
    fail(4, cause="given up", stop_after=100)  # neither a straggler's success nor another spec reopens it
    assert given_up("judge") == message
    assert given_up("another") is None
    forget()
    assert given_up("judge") is None and counts() == {}


def test_counts_are_a_copy():
    fail(1)
    counts().clear()
    assert failures.counts()["judge"].failures == 1
