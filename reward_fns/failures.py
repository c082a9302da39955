"""Count how rewards fare in this process, and give up those whose scorer keeps failing."""

import logging
import threading
from dataclasses import dataclass

from reward_fns.errors import ScorerUnavailable

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Counts:
    """How a reward has fared in this process."""

    samples: int = 0  # scored, or failed for good
    retries: int = 0
    failures: int = 0  # samples that failed for good
    in_a_row: int = 0  # of these, those since the last success
    first_cause: str = ""  # of those in a row
    stopped: bool = False  # given up


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
    now = _counts.get(reward, Counts())
    if not now.stopped:
        return None
    return (
        f"given up after {now.in_a_row} failures in a row, of which the first was: {now.first_cause}. Every further "
        "sample fails like this one; fix the cause (a dead server, missing memory, a bug) and start again: a training "
        "run goes on from its last checkpoint"
    )


def succeeded(reward: str, retries: int = 0) -> None:
    """Count a sample that was scored, after this many retries."""
    with _lock:
        now = _counts.get(reward, Counts())
        row = (now.in_a_row, now.first_cause) if now.stopped else (0, "")
        _counts[reward] = Counts(now.samples + 1, now.retries + retries, now.failures, *row, now.stopped)


def failed(failure: ScorerUnavailable, retries: int, stop_after: int | None) -> None:
    """Count a sample that failed for good; at stop_after of them in a row the reward is given up.

    With None, for a reward of weight 0, it never is: failures are logged whenever they reach a power of 2.
    """
    with _lock:
        now = _counts.get(failure.reward, Counts())
        # Once a reward is given up, its row of failures ends and keeps its first cause.
        row = now.in_a_row + (not now.stopped)
        cause = now.first_cause or f"{failure.cause}, on sample {failure.sample_id!r}"
        stopped = now.stopped or (stop_after is not None and row >= stop_after)
        total = now.failures + 1
        _counts[failure.reward] = Counts(now.samples + 1, now.retries + retries, total, row, cause, stopped)
    if stop_after is None and total & (total - 1) == 0:
        _log.warning("%s. Its weight is 0: the sample keeps its other rewards. %d failures so far.", failure, total)
