"""Scorers that fail, hang or die: retries, time limits, giving up, and rewards of weight 0."""

import asyncio
import itertools
import math
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from toy_rewards import report, toy, values

import reward_fns
from reward_fns.calling import counts
from reward_fns.errors import ScorerUnavailable, UsageError
from reward_fns.registry import reward
from reward_fns.scoring import score_batch, score_samples
from reward_fns.spec import resolve

pytestmark = pytest.mark.usefixtures("scratch_registry")


def flaky(failures):
    """A reward that fails in the ways given, one after the other, and then scores 1."""
    left = iter(failures)

    def function(prediction, reference):
        what = next(left, 1.0)
        if isinstance(what, Exception):
            raise what
        return what

    return function


@pytest.mark.parametrize("trouble", [OSError("down"), math.nan, 7.0, None, "bad", StopIteration()])
@pytest.mark.parametrize("blocking", [False, True])
def test_a_scorer_that_recovers_within_its_retries(trouble, blocking):
    spec = toy(flaky([trouble] * 2), {"retries": 2}, blocking=blocking)
    assert values(score_batch([report("a")], spec)) == [1.0]
    assert (counts()["toy"].retries, counts()["toy"].failures) == (2, 0)


@pytest.mark.parametrize("trouble", [OSError("down"), math.nan, StopIteration()])
def test_a_scorer_that_fails_once_too_often(trouble):
    (failure,) = score_batch([report("a")], toy(flaky([trouble] * 3), {"retries": 2}))
    assert isinstance(failure, ScorerUnavailable) and failure.reward == "toy"
    assert counts()["toy"].failures == 1


def test_the_pause_before_a_retry_does_not_hold_up_other_samples(monkeypatch):
    monkeypatch.setattr("reward_fns.settings.FailureRules.pause", lambda self, retry: 3.0)

    def picky(prediction, reference):
        if prediction == "bad":
            raise ValueError("can't read it")
        return 1.0

    start = time.monotonic()
    results = score_batch([report("bad"), report("good")] * 10, toy(picky, {"retries": 1}))
    assert time.monotonic() - start < 25  # 30 s one after the other
    assert [isinstance(result, ScorerUnavailable) for result in results] == [True, False] * 10


def test_a_sample_that_a_batched_scorer_cannot_digest_fails_alone():
    calls = []

    def picky(predictions, references):
        calls.append(predictions)
        if "bad" in predictions:
            raise ValueError("can't read it")
        return [1.0] * len(predictions)

    found = values(score_batch([report("a"), report("bad", "p8"), report("b")], toy(picky, batched=True)))
    assert found[0] == found[2] == 1.0
    assert str(found[1]) == "reward 'toy' failed on sample 'p8': ValueError(\"can't read it\")"
    assert calls[0] == ["a", "bad", "b"] and all(len(call) == 1 for call in calls[1:])


HANGS = [
    pytest.param(lambda stop: lambda p, r: stop.wait(60), {"blocking": True}, id="thread"),
    pytest.param(lambda stop: lambda p, r: stop.wait(60), {"batched": True}, id="batch"),
    pytest.param(lambda stop: lambda p, r: asyncio.sleep(60), {}, id="async"),
]


@pytest.mark.parametrize(("make", "arguments"), HANGS)
def test_a_hanging_scorer_is_ended_and_given_up(make, arguments):
    stop = threading.Event()
    spec = toy(make(stop), {"retries": 1, "timeout": 0.1, "stop_after": 3, "concurrency": 2}, **arguments)
    start = time.monotonic()
    results = [score_batch([report("a", number)], spec)[0] for number in range(50)]
    assert time.monotonic() - start < 50  # one that hangs takes a minute
    stop.set()
    assert "TimeoutError('no answer within the time limit of 0.1 s')" in str(results[0])
    for result in results[3:]:
        assert isinstance(result, ScorerUnavailable)
        assert "reward 'toy' failed" in str(result) and "given up after 3 failures in a row" in str(result)
        assert "TimeoutError" in str(result) and "on sample '2'" in str(result)


def test_an_async_scorer_that_refuses_to_be_cancelled_is_left_behind():
    async def stubborn(prediction, reference):
        for _ in range(400):
            if seconds:
                break
            try:
                await asyncio.sleep(0.1)
            except asyncio.CancelledError:
                continue
        return 1.0

    async def run():
        start = time.monotonic()
        found = await score_samples([report("a")], toy(stubborn, {"retries": 0, "timeout": 0.1}))
        seconds.append(time.monotonic() - start)
        return found

    seconds: list[float] = []
    (failure,) = asyncio.run(run())
    assert isinstance(failure, ScorerUnavailable) and seconds[0] < 30  # it goes on for 40


def test_a_hanging_thread_does_not_keep_the_process_from_ending(tmp_path):
    script = tmp_path / "hang.py"
    script.write_text(
        "import time\nfrom reward_fns import reward\nfrom reward_fns.scoring import Rollout, score_batch\n"
        "from reward_fns.spec import resolve\n"
        "@reward('hang', task='report', range=(0, 1), blocking=True)\n"
        "def hang(prediction, reference):\n    time.sleep(600)\n"
        "spec = resolve({'report': [{'name': 'hang'}], 'failures': {'retries': 0, 'timeout': 0.1}})\n"
        "print(score_batch([Rollout('a/report', 'x', {'report': 'y'}, {})], spec))\n"
    )
    env = {"PYTHONPATH": str(Path(reward_fns.__file__).parents[1])}
    done = subprocess.run([sys.executable, str(script)], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "TimeoutError" in done.stdout


def test_a_dead_scorer_that_comes_back_in_time_goes_on():
    moods = itertools.chain([OSError("down")] * 4, itertools.repeat(1.0))
    spec = toy(flaky(moods), {"retries": 0, "stop_after": 5})
    found = [values(score_batch([report("a")], spec))[0] for _ in range(6)]
    assert [isinstance(value, ScorerUnavailable) for value in found] == [True] * 4 + [False] * 2
    assert counts()["toy"].in_a_row == 0


def test_a_dead_scorer_is_not_asked_again_once_given_up():
    asked = []
    spec = toy(lambda p, r: asked.append(1) or math.nan, {"retries": 1, "stop_after": 2})
    results = score_batch([report("a"), report("a", "p8")], spec)
    results += [score_batch([report("a")], spec)[0] for _ in range(9)]
    assert all(isinstance(result, ScorerUnavailable) for result in results) and len(asked) == 4
    assert counts()["toy"].failures == 11


def test_one_given_up_reward_leaves_the_others_alone():
    bad = toy(lambda p, r: math.nan, {"retries": 0, "stop_after": 1})
    good = toy(lambda p, r: 1.0, name="fine")
    assert isinstance(score_batch([report("a")], bad)[0], ScorerUnavailable)
    assert score_batch([report("a")], good)[0]["fine"] == 1.0


def watched(function, rules=None, **arguments):
    """A spec with a sound reward of weight 1 and one that only watches."""
    reward("toy", task="report", range=(0.0, 1.0), **arguments)(function)
    return resolve({"report": [{"name": "gleu"}, {"name": "toy", "weight": 0}], "failures": rules or {}})


def broken(prediction, reference):
    raise OSError("no server")


def misused(prediction, reference):
    raise UsageError("no address")


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (broken, {}),
        (misused, {}),
        (lambda prediction, reference: math.nan, {}),
        (lambda prediction, reference: 7.0, {"blocking": True}),
        (lambda predictions, references: [0.5], {"batched": True}),  # for two samples
        (lambda prediction, reference: asyncio.sleep(60), {}),
    ],
)
def test_a_reward_of_weight_zero_that_fails_costs_no_sample_and_no_run(function, arguments, caplog):
    spec = watched(function, {"stop_after": 1, "retries": 0, "timeout": 0.1}, **arguments)
    for rounds in range(1, 4):
        results = score_batch([report("clear"), report("clear", "p8")], spec)
        for result in results:
            assert result["score"] == result["acc"] == result["gleu"] == 1.0 and math.isnan(result["toy"])
            assert list(result) == list(score_batch([report("")], spec)[0])
        assert counts()["toy"].failures == 2 * rounds and not counts()["toy"].given_up
    assert "reward 'toy' failed on sample 'p7'" in caplog.text and "Its weight is 0" in caplog.text


def test_a_reward_of_weight_zero_recovers():
    moods = itertools.chain([OSError("down")] * 4, itertools.repeat(0.5))
    spec = watched(flaky(moods), {"retries": 0, "stop_after": 2})
    found = [value["toy"] for value in score_batch([report("a")] * 6, spec)]
    assert [math.isnan(value) for value in found] == [True] * 4 + [False] * 2


def test_a_dead_reward_of_weight_zero_does_not_cost_the_retries_of_every_sample():
    asked = []
    spec = watched(lambda p, r: asked.append(1) or math.nan, {"retries": 2, "stop_after": 2})
    for _ in range(5):
        score_batch([report("a")], spec)
    assert len(asked) == 2 * 3 + 3


def test_wrong_use_is_not_tried_again():
    asked = []

    async def picky(prediction, reference):
        asked.append(1)
        raise UsageError("no address")

    with pytest.raises(UsageError, match="no address"):
        score_batch([report("a")], toy(picky))
    assert len(asked) == 1 and counts()["toy"].causes == {"UsageError('no address')": 1}
