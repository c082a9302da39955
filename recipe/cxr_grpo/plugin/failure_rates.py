"""Whether too large a share of a run's rewards fails, over all reward workers and the last steps."""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import replace

from reward_fns.calling import ROWS, Counts
from reward_fns.spec import RewardSpec

Totals = Mapping[str, Counts]
"""Counts of each reward since the run started, over all reward workers."""


def total(workers: Iterable[Totals]) -> dict[str, Counts]:
    """The counts of several reward workers together.

    >>> total([{"gleu": Counts(8, failures=1)}, {"gleu": Counts(4)}])["gleu"].samples
    12
    """
    sums: dict[str, Counts] = {}
    for worker in workers:
        for name, count in worker.items():
            sums[name] = sums.get(name, Counts()) + count
    return sums


def since(start: Totals, now: Totals) -> dict[str, Counts]:
    """What was counted after ``start``; a worker that started again counts from 0."""
    changed = {}
    for name, count in now.items():
        old = start.get(name, Counts())
        counted = {key: max(getattr(count, key) - getattr(old, key), 0) for key in ("samples", "retries", "failures")}
        causes = {cause: n - old.causes.get(cause, 0) for cause, n in count.causes.items()}
        changed[name] = replace(count, **counted, causes={cause: n for cause, n in causes.items() if n > 0})  # type: ignore[arg-type]
    return changed


def causes_of(counted: Totals) -> str:
    """The rewards that failed, each with its count and most frequent cause, for a message; empty if none did."""
    parts = []
    for name, count in counted.items():
        if count.failures:
            cause = f" ({max(count.causes, key=count.causes.__getitem__)})" if count.causes else ""
            parts.append(f"{name} {count.failures}{cause}")
    return ", ".join(parts)


class FailureRates:
    """The rule ``failures: {max_rate, window}`` of a spec.

    A reward with a weight may fail on at most ``max_rate`` of its samples over the last ``window`` steps, and no more
    than this share of all rollouts may be left without a reward, whatever the cause. Before ``window`` steps are
    complete, the rule holds for as many samples as they have: a step in which hardly a group succeeds may never end.
    """

    def __init__(self, spec: RewardSpec, rollouts_per_step: int) -> None:
        self.rules = spec.failures
        self.trained = {part.reward.name for parts in spec.tasks.values() for part in parts if part.weight}
        self.enough = self.rules.window * rollouts_per_step
        self.starts: deque[Totals] = deque([{}], maxlen=self.rules.window)  # of the last steps, oldest first
        self.unscored: deque[tuple[int, int]] = deque(maxlen=self.rules.window)  # of the last steps, and all rollouts

    def dead(self, now: Totals) -> str | None:
        """Why the run can't go on with a reward that was given up, if one with a weight was."""
        gone = [f"reward {name!r}: {now[name].given_up}" for name in self.trained if name in now and now[name].given_up]
        return gone[0] if gone else None

    def exceeded(self, now: Totals, *, at_end_of_step: bool = False) -> str | None:
        """Why too large a share has failed, if so."""
        counted = since(self.starts[0], now)
        complete = at_end_of_step and len(self.starts) == self.rules.window
        span = f"in the last {self.rules.window} steps"
        for name, count in counted.items():
            if name not in self.trained or not (complete or count.samples >= self.enough):
                continue
            if message := self._message(f"reward {name!r} failed on", count.failures, count.samples, span, counted):
                return message
        if at_end_of_step and len(self.unscored) == self.rules.window:
            failed, rollouts = map(sum, zip(*self.unscored, strict=True))
            return self._message("no reward for", failed, rollouts, span, counted)
        return None

    def of_validation(self, failed: int, rollouts: int, counted: Totals) -> str | None:
        """Why a validation in which so many rollouts have no reward says nothing, if so."""
        if cause := self.dead(counted):
            return cause
        return self._message("no reward for", failed, rollouts, "of a validation", counted)

    def _message(self, what: str, failed: int, samples: int, span: str, counted: Totals) -> str | None:
        if failed <= self.rules.max_rate * samples:
            return None
        share = f"{what} {failed} of {samples} rollouts {span} ({failed / samples:.0%})"
        causes = causes_of({name: count for name, count in counted.items() if name in self.trained | {ROWS}})
        causes = causes or "none of a reward: see the log for the errors"
        return f"{share}; the spec's failures.max_rate is {self.rules.max_rate:.0%}. Failures: {causes}"

    def end_step(self, now: Totals, failed: int, rollouts: int) -> str | None:
        """Count a step that ended, with so many rollouts without a reward; returns as :meth:`exceeded`."""
        self.unscored.append((failed, rollouts))
        message = self.exceeded(now, at_end_of_step=True)
        self.starts.append(now)
        return message

    def leave_out(self, before: Totals, after: Totals) -> None:
        """Take what a validation counted out of the steps around it."""
        shifted = [
            {name: count + (start.get(name) or Counts()) for name, count in since(before, after).items()}
            for start in self.starts
        ]
        self.starts.extend(shifted)  # as many as there are: they replace the old ones
