"""The only way to the neural models: each text is read once, in batches with the texts of all other callers.

A reward asks for single texts, from any thread that verl calls it in. Each model has a lane: a queue and one thread,
which collects texts for a few milliseconds, sorts them by length and reads them in batches of a bounded number of
tokens. A text whose result is cached, or that is waiting or being read, is not read again.
"""

import contextlib
import os
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any, Protocol

from reward_fns.engine.device import scorer_packages, set_threads
from reward_fns.engine.lane import Found, Lane, Reader, after_fork
from reward_fns.settings import EngineOptions, current

Key = tuple[Hashable, ...]
Build = Callable[[EngineOptions], Reader[Found]]
Tap = dict[tuple[Key, str], Any]


class Peers(Protocol):
    """The replicas of a deployment, as one of them sees them."""

    def owns(self, text: str) -> bool:
        """Whether this replica should read the text itself."""

    def fetch(self, key: Key, build: Build[Any], text: str, timeout: float) -> Any:
        """What the replica that should read the text finds in it."""


_lanes: dict[tuple[Key, EngineOptions], Lane[Any]] = {}
_readers: dict[Hashable, Reader[Any]] = {}
_taps: list[Tap] = []
_peers: ContextVar[Peers | None] = ContextVar("reward_fns_peers", default=None)
_lock, _building = threading.Lock(), threading.RLock()


def read(key: Key, build: Build[Found], texts: Sequence[str]) -> list[Found]:
    """What a model finds in texts, in their order.

    Safe to call from any number of threads. The first call builds the model, with the options in force.

    Args:
        key: identifies the model.
        build: makes the model's reader; where replicas share texts, it travels between them.
        texts: to be read.

    Raises:
        UsageError: from `build`, or a package is not installed.
        TimeoutError: the caller's time limit is over.
        Exception: raised by the model for this text, even if it was in a batch.
    """
    settings, peers = current(), _peers.get()
    if not texts:
        return []
    lane = _lane(key, build, settings.options)
    if peers is None:
        found = lane.read(texts, settings.deadline)
    else:
        found = lane.read(texts, settings.deadline, peers.owns, partial(peers.fetch, key, build))
    for tap in _taps:
        tap.update({(key, text): result for text, result in zip(texts, found, strict=True)})
    return found


@contextlib.contextmanager
def sharing(peers: Peers | None) -> Iterator[None]:
    """Inside, this thread has other replicas read the texts that belong to them; None shares nothing."""
    token = _peers.set(peers)
    try:
        yield
    finally:
        _peers.reset(token)


@contextlib.contextmanager
def tapped(tap: Tap) -> Iterator[None]:
    """Inside, every result that any thread gets is also stored in a dictionary."""
    _taps.append(tap)
    try:
        yield
    finally:
        _taps.remove(tap)


def lanes() -> dict[tuple[Key, EngineOptions], Lane[Any]]:
    """The lanes of this process, by model and options."""
    with _lock:
        return dict(_lanes)


def totals(options: EngineOptions) -> tuple[Counter[str], Counter[str]]:
    """Counts and seconds of this process's lanes with these options, summed over the models."""
    counts: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    for (_, own), lane in lanes().items():
        if own == options:
            counts.update(lane.counts)
            seconds.update(lane.seconds)  # type: ignore[arg-type]
    return counts, seconds


def trouble() -> str | None:
    """Why this process must be replaced, such as a broken GPU; None if all is well."""
    return next((lane.trouble for lane in lanes().values() if lane.trouble), None)


def _lane(key: Key, build: Build[Found], options: EngineOptions) -> Lane[Found]:
    identity = key, options
    if identity not in _lanes:
        reader = _reader(key, build, options)
        with _lock:
            if identity not in _lanes:
                _lanes[identity] = Lane(str(key[0]), reader, options)
    return _lanes[identity]


def _reader(key: Key, build: Build[Found], options: EngineOptions) -> Reader[Found]:
    """The reader of a model, built by the first caller; others wait. Lanes with other queues or caches share it."""
    model = key, options.device, options.dtype, options.compile
    with _building, scorer_packages():
        if model not in _readers:
            set_threads(options.threads)
            _readers[model] = build(options)
        return _readers[model]


def _after_fork() -> None:
    """A forked process has neither the lanes' threads nor, on a GPU, the models, and their locks may be held."""
    global _lock, _building
    _lock, _building = threading.Lock(), threading.RLock()
    _lanes.clear()
    _readers.clear()
    after_fork()


os.register_at_fork(after_in_child=_after_fork)
