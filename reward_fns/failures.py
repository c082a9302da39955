"""What happens when a scorer fails: how often it is asked again, and when it is given up."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass

from reward_fns.errors import ScorerUnavailable, UsageError

_jitter = random.Random()  # its own, so that retries don't shift anyone's seeded random numbers


@dataclass(frozen=True)
class FailureRules:
    """How a failing scorer is treated; the entry `failures` of a reward spec.

    Attributes:
        retries: how many more times a sample is tried, alone, whose scorer raised an exception, took too long or
            returned what is no number in its range.
        backoff: seconds before the first of these, doubled with each further one, give or take a quarter.
        timeout: seconds that one call of a batched, blocking or async reward may take, loading weights included. An
            async one is then cancelled; a thread can't be ended and is left behind, so a scorer should have a time-out
            of its own as well.
        stop_after: samples failed in a row, after their retries, after which a reward is given up for good in this
            process: every further call fails at once, and verl, with no group left to train on, stops by itself.
        concurrency: calls of one batched, blocking or async reward that a process has under way at once; the wait
            for a place doesn't count as time of the call.

    Raises:
        UsageError: a value is out of range.

    >>> FailureRules(timeout=5.0).retries
    2
    >>> FailureRules(stop_after=0)
    Traceback (most recent call last):
    reward_fns.errors.UsageError: stop_after must be an integer from 1, got 0
    """

    retries: int = 2
    backoff: float = 1.0
    timeout: float = 120.0
    stop_after: int = 20
    concurrency: int = 32

    def __post_init__(self) -> None:
        for name, low in (("retries", 0), ("stop_after", 1), ("concurrency", 1)):
            value = getattr(self, name)
            if type(value) is not int or value < low:
                raise UsageError(f"{name} must be an integer from {low}, got {value!r}")
        for name, least in (("backoff", 0.0), ("timeout", 1e-3)):
            value = getattr(self, name)
            if type(value) not in (int, float) or not least <= value <= 1e6:
                raise UsageError(f"{name} must be a number of seconds from {least:g} to 1e6, got {value!r}")

    def pause(self, retry: int) -> float:
        """Seconds to wait before a retry, of which the first is number 0."""
        return float(self.backoff) * 2.0**retry * _jitter.uniform(0.75, 1.25)


@dataclass(frozen=True)
class Counts:
    """How a reward has fared in this process.

    Attributes:
        samples: scored or failed for good.
        retries: tries beyond the first.
        failures: samples that failed for good.
        in_a_row: of these, those since the last success.
        first_cause: what the first of those in a row failed of.
        stopped: whether the reward was given up.
    """

    samples: int = 0
    retries: int = 0
    failures: int = 0
    in_a_row: int = 0
    first_cause: str = ""
    stopped: bool = False


_counts: dict[str, Counts] = {}
_lock = threading.Lock()


def counts() -> dict[str, Counts]:
    """The counters of every reward that this process has called, by name, for logging."""
    with _lock:
        return dict(_counts)


def forget() -> None:
    """Set all counters back, so that rewards given up are tried again, as after a restart."""
    with _lock:
        _counts.clear()


def given_up(reward: str) -> str | None:
    """Why every call of this reward now fails at once; None while it is in use."""
    now = _counts.get(reward)
    if now is None or not now.stopped:
        return None
    return (
        f"given up after {now.in_a_row} failures in a row, of which the first was: {now.first_cause}. Every further "
        "sample fails like this one; mend what that names (a dead server, missing memory, a bug) and start again: "
        "a training run goes on from its last checkpoint"
    )


def succeeded(reward: str, retries: int = 0) -> None:
    """Count a sample that was scored, after so many retries."""
    with _lock:
        now = _counts.get(reward, Counts())
        row = (now.in_a_row, now.first_cause) if now.stopped else (0, "")
        _counts[reward] = Counts(now.samples + 1, now.retries + retries, now.failures, *row, now.stopped)


def failed(failure: ScorerUnavailable, retries: int, stop_after: int) -> None:
    """Count a sample that failed for good; the reward is given up if it is the last of so many in a row."""
    with _lock:
        now = _counts.get(failure.reward, Counts())
        # Of a reward that is given up the row ends there, and keeps what it began with.
        row = now.in_a_row + (not now.stopped)
        cause = now.first_cause or f"{failure.cause}, on sample {failure.sample_id!r}"
        stopped = now.stopped or row >= stop_after
        _counts[failure.reward] = Counts(now.samples + 1, now.retries + retries, now.failures + 1, row, cause, stopped)
