"""Call a reward: inline, awaited or in a thread; under a time limit; again if it fails, until it is given up."""

import asyncio
import concurrent.futures
import contextlib
import inspect
import itertools
import logging
import math
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from reward_fns.errors import ScorerUnavailable, UsageError
from reward_fns.registry import Reward
from reward_fns.rollout import ParsedRollout
from reward_fns.settings import EngineOptions, using
from reward_fns.spec import Component, RewardSpec

_log = logging.getLogger(__name__)
Outcome = float | ScorerUnavailable
_BATCH = 32  # samples in one call of a batched reward: enough for a GPU, few enough for the time limit on a CPU
_ROUNDING = 1e-6  # how far outside its range a value may be by floating-point error, and is moved back in

Ask = Callable[[Reward, Mapping[str, Any], Sequence[Any], Sequence[Any], EngineOptions, float], Sequence[float | None]]
_asks: list[Ask] = []


def ask_deployment_with(ask: Ask) -> None:
    """Register how `reward_fns.engine`, which this module must not import, asks a scorer deployment."""
    _asks[:] = [ask]


def _by_deployment(reward: Reward, options: EngineOptions) -> bool:
    """Whether a deployment, which accepts no user's file, computes this reward: batched, from models and texts only."""
    local = reward.needs is None or not reward.batched or reward.context or reward.from_file
    return options.where != "inline" and not local


async def outcomes(component: Component, parsed: Sequence[ParsedRollout], spec: RewardSpec) -> list[Outcome]:
    """Per rollout, in order, one reward's number in its range, or its last failure.

    Rollouts that failed are tried again alone, so that one that a scorer can't digest doesn't take the others along.
    Raises UsageError if a reward whose weight is not 0 is used wrongly.
    """
    reward = component.reward
    places = begin(reward.name, len(parsed))
    size = _BATCH if reward.batched else 1
    calls = [_attempt(component, parsed[i : i + size], spec) for i in range(0, len(parsed), size)]
    # Batches of a model would only queue for it, each at the cost of its own time limit.
    in_turn = not waits(reward) or (reward.blocking and reward.batched and not _by_deployment(reward, spec.engine))
    try:
        first = [await call for call in calls] if in_turn else await asyncio.gather(*calls)
    except UsageError as error:
        for rollout, place in zip(parsed, places, strict=True):
            failed(ScorerUnavailable(reward.name, rollout.id, repr(error)), 0, place, spec.failures.stop_after)
        raise
    results = [outcome for group in first for outcome in group]
    missing = [i for i, outcome in enumerate(results) if isinstance(outcome, ScorerUnavailable)]
    for _ in range(len(results) - len(missing)):
        succeeded(reward.name)
    again = await asyncio.gather(*(_again(component, parsed[i], results[i], spec, places[i]) for i in missing))
    for i, outcome in zip(missing, again, strict=True):
        results[i] = outcome
    return results


async def _again(
    component: Component, rollout: ParsedRollout, outcome: Outcome, spec: RewardSpec, place: int
) -> Outcome:
    """The outcome of a rollout that failed, after its retries; `place` is that of `begin`."""
    name, retry, rules = component.reward.name, 0, spec.failures
    while isinstance(outcome, ScorerUnavailable) and retry < rules.retries and given_up(name) is None:
        # A reward of weight 0 is never given up: a dead one must not cost the pauses of every sample either.
        dead = not component.weight and counts().get(name, Counts()).in_a_row >= rules.stop_after
        if dead or isinstance(outcome.__cause__, UsageError):
            break
        await asyncio.sleep(rules.pause(retry))
        (outcome,) = await _attempt(component, [rollout], spec)
        retry += 1
    if isinstance(outcome, ScorerUnavailable):
        failed(outcome, retry, place, rules.stop_after if component.weight else None)
    else:
        succeeded(name, retry)
    return outcome


async def _attempt(component: Component, parsed: Sequence[ParsedRollout], spec: RewardSpec) -> list[Outcome]:
    """Call the reward once, for one rollout or, if it is batched, for several."""
    reward, rules = component.reward, spec.failures
    try:
        async with _slot(reward, rules.concurrency):
            if cause := given_up(reward.name):
                return [ScorerUnavailable(reward.name, rollout.id, cause) for rollout in parsed]
            call = _call(component, parsed, spec)
            raw = await _limited(run_in_thread(call, reward.name), rules.timeout) if reward.blocking else call()
            # An async function behind a decorator or a lambda doesn't look like one before it is called.
            raw = await _limited(raw, rules.timeout) if inspect.isawaitable(raw) else raw
        raw = list(raw) if reward.batched else [raw]
        if len(raw) != len(parsed):
            what = f"{reward.where}: batched reward {reward.name!r}"
            raise UsageError(f"{what} returned {len(raw)} values for {len(parsed)} samples")
    except Exception as error:
        if isinstance(error, UsageError) and component.weight:
            raise
        failures = [ScorerUnavailable(reward.name, rollout.id, repr(error)) for rollout in parsed]
        for failure in failures:
            failure.__cause__ = error
        return list(failures)
    return [_number(reward, rollout.id, value) for rollout, value in zip(parsed, raw, strict=True)]


def _call(component: Component, parsed: Sequence[ParsedRollout], spec: RewardSpec) -> Callable[[], Any]:
    reward, engine, timeout = component.reward, spec.engine, spec.failures.timeout
    predictions, references = zip(*(rollout.sides(reward) for rollout in parsed), strict=True)
    if _by_deployment(reward, engine):
        return lambda: _asks[0](reward, component.options, predictions, references, engine, timeout)
    if reward.batched:
        context = {key: [rollout.context[key] for rollout in parsed] for key in reward.context}
        call = partial(reward, list(predictions), list(references), component.options, context)
    else:
        call = partial(reward, predictions[0], references[0], component.options, parsed[0].context)
    return call if reward.needs is None else using(engine, timeout)(call)


async def _limited(work: Awaitable[Any], timeout: float) -> Any:
    """The work's result; raises TimeoutError at the limit, even if the work refuses to be cancelled."""
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=timeout)
    finally:
        task.cancel()
    if not done:
        raise TimeoutError(f"no answer within the time limit of {timeout:g} s")
    return task.result()


async def run_in_thread(call: Callable[[], Any], name: str) -> Any:
    """Run a blocking call in a thread of its own, which is left behind if it hangs.

    It is a daemon, unlike the threads of `asyncio.to_thread`, for which event loop and interpreter wait at their end.
    """
    future: concurrent.futures.Future[tuple[Any, Exception | None]] = concurrent.futures.Future()
    future.set_running_or_notify_cancel()  # from here on nobody can cancel it under the thread's hands

    def run() -> None:
        try:
            future.set_result((call(), None))
        except Exception as error:  # as a value: asyncio's futures don't take a StopIteration
            future.set_result((None, error))

    threading.Thread(target=run, name=f"reward {name}", daemon=True).start()
    result, error = await asyncio.wrap_future(future)
    if error is not None:
        raise error
    return result


# Per event loop, since asyncio's semaphores belong to one, then per reward and limit.
_slots: WeakKeyDictionary[Any, dict[tuple[str, int], asyncio.Semaphore]] = WeakKeyDictionary()


def _slot(reward: Reward, limit: int) -> contextlib.AbstractAsyncContextManager[Any]:
    """A slot among the calls under way; plain functions need none, as they run one after the other."""
    if not waits(reward):
        return contextlib.nullcontext()
    of_loop = _slots.setdefault(asyncio.get_running_loop(), {})
    return of_loop.setdefault((reward.name, limit), asyncio.Semaphore(limit))


def waits(reward: Reward) -> bool:
    """Whether other rollouts can be scored meanwhile: the reward has a thread, or is async."""
    return reward.blocking or inspect.iscoroutinefunction(reward.function)


def _number(reward: Reward, sample_id: str, raw: Any) -> Outcome:
    low, high = reward.range
    try:
        value = float(raw)
    except (TypeError, ValueError, OverflowError):
        return ScorerUnavailable(reward.name, sample_id, f"returned {raw!r}, which is not a number")
    if math.isnan(value) or not low - _ROUNDING <= value <= high + _ROUNDING:
        return ScorerUnavailable(reward.name, sample_id, f"returned {value}, outside its range {low} to {high}")
    return min(max(value, low), high)


@dataclass(frozen=True)
class Counts:
    """How a reward has fared in this process."""

    samples: int = 0  # scored, or failed for good
    retries: int = 0
    failures: int = 0  # samples that failed for good
    in_a_row: int = 0  # length of the row that the latest failure belongs to; 0 after a success
    causes: Mapping[str, int] = field(default_factory=dict)  # failures by cause, of the first few causes
    given_up: str = ""  # why it is no longer called

    def __add__(self, other: "Counts") -> "Counts":
        """The counts of two processes together."""
        causes = Counter(self.causes) + Counter(other.causes)
        row, given_up = max(self.in_a_row, other.in_a_row), self.given_up or other.given_up
        sums = self.samples + other.samples, self.retries + other.retries, self.failures + other.failures
        return Counts(*sums, row, causes, given_up)


ROWS = "data row"
"""The name under which samples are counted that can't be scored because of their own row (`DataError`)."""

_CAUSES, _CAUSE_CHARS = 10, 200  # how many different causes are kept, each this long
_counts: dict[str, Counts] = {}
_begun: dict[str, int] = {}
_rows: dict[str, dict[int, tuple[int, frozenset[str]]]] = {}  # at both ends of a row: its length, some of its samples
_lock = threading.Lock()


def counts() -> dict[str, Counts]:
    """The counters of every reward that this process has called, by name, for logging."""
    with _lock:
        return dict(_counts)


def forget() -> None:
    """Set all counters back, so that rewards given up are tried again, as after a restart."""
    with _lock:
        for store in (_counts, _begun, _rows):
            store.clear()


def given_up(reward: str) -> str | None:
    """Why every call of this reward now fails at once; None while it is in use."""
    return _counts.get(reward, Counts()).given_up or None


def give_up(reward: str, cause: str) -> None:
    """Let every further call of this reward fail at once, for this cause; the first cause stays."""
    with _lock:
        now = _counts.get(reward, Counts())
        _counts[reward] = replace(now, given_up=now.given_up or cause)


def begin(reward: str, samples: int) -> range:
    """The places of so many samples in the order in which this process asks a reward for them, for `failed`."""
    with _lock:
        first = _begun.get(reward, 0)
        _begun[reward] = first + samples
    return range(first, first + samples)


def succeeded(reward: str, retries: int = 0) -> None:
    """Count a sample that was scored, after this many retries."""
    with _lock:
        now = _counts.get(reward, Counts())
        _counts[reward] = replace(now, samples=now.samples + 1, retries=now.retries + retries, in_a_row=0)


def failed(failure: ScorerUnavailable, retries: int, place: int, stop_after: int | None) -> None:
    """Count a sample that failed for good; the reward is given up after `stop_after` of them in a row.

    The row is that of their places (`begin`), since samples that fail end later than those around them, after their
    retries; and it needs two different samples, since a single one has many rollouts. With None, for a reward of
    weight 0, it is never given up: failures are logged whenever they reach a power of 2.
    """
    name = failure.reward
    with _lock:
        rows, sample = _rows.setdefault(name, {}), failure.sample_id or f"at place {place}"
        left, right = rows.get(place - 1, (0, frozenset())), rows.get(place + 1, (0, frozenset()))
        row = left[0] + 1 + right[0]
        samples = frozenset(itertools.islice({sample, *left[1], *right[1]}, 2))
        rows[place - left[0]] = rows[place + right[0]] = (row, samples)
        now = _counts.get(name, Counts())
        cause = failure.cause[:_CAUSE_CHARS]
        causes = dict(now.causes)
        if not now.given_up and (cause in causes or len(causes) < _CAUSES):
            causes[cause] = causes.get(cause, 0) + 1
        total = now.failures + 1
        changed = {"samples": now.samples + 1, "retries": now.retries + retries, "failures": total}
        _counts[name] = now = replace(now, **changed, in_a_row=row, causes=causes)  # type: ignore[arg-type]
    if stop_after is not None and row >= stop_after and len(samples) >= min(2, stop_after) and not now.given_up:
        last = f"the last: {failure.cause}, on sample {failure.sample_id!r}"
        advice = (
            "fix the cause (a dead server, missing memory, a bug) and start again: a run goes on from its checkpoint"
        )
        give_up(
            name, f"given up after {row} failures in a row, {last}. Every further sample fails like this one; {advice}"
        )
    if stop_after is None and total & (total - 1) == 0:
        _log.warning("%s. Its weight is 0: the sample keeps its other rewards. %d failures so far.", failure, total)
