"""The only way to the neural models: each text is read once, in batches with the texts of all other callers.

Each model has a lane: a queue and one thread, which collects texts for a few milliseconds, sorts them by length and
reads them in batches of a bounded number of tokens. A text that is cached, waiting or being read is not read again.
"""

import contextlib
import os
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol

from reward_fns.engine.device import scorer_packages
from reward_fns.engine.lane import Found, Lane, Reader, after_fork
from reward_fns.settings import EngineOptions, current

Key = tuple[Hashable, ...]
Build = Callable[[EngineOptions], Reader[Found]]
Tap = dict[tuple[Key, str], Any]


class Peers(Protocol):
    """The replicas of a deployment, as one of them sees them: whether it reads a text itself, or asks its owner."""

    def owns(self, text: str) -> bool: ...
    def fetch(self, key: Key, build: Build[Any], text: str, timeout: float) -> Any: ...


_lanes: dict[tuple[Key, EngineOptions], Lane[Any]] = {}
_readers: dict[Hashable, Reader[Any]] = {}
_taps: list[Tap] = []
_lock, _building = threading.Lock(), threading.RLock()


def read(key: Key, build: Build[Found], texts: Sequence[str]) -> list[Found]:
    """What a model finds in texts, in their order; safe to call from any number of threads.

    The first call builds the model with the options in force. Raises UsageError from `build` or for a missing package,
    TimeoutError when the caller's time is over, and whatever the model raises for one of these texts.
    """
    options, deadline, peers = current()
    if not texts:
        return []
    shared = (peers.owns, partial(peers.fetch, key, build)) if peers else ()
    results = _lane(key, build, options).read(texts, deadline, *shared)
    for tap in _taps:
        tap.update({(key, text): result for text, result in zip(texts, results, strict=True)})
    return results


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
    counts, seconds = Counter[str](), Counter[str]()
    for (_, own), lane in lanes().items():
        if own == options:
            counts.update(lane.counts)
            seconds.update(lane.seconds)  # type: ignore[arg-type]
    return counts, seconds


def trouble() -> str | None:
    """Why this process must be replaced, such as a broken GPU; None if all is well."""
    return next((lane.trouble for lane in lanes().values() if lane.trouble), None)


def _lane(key: Key, build: Build[Found], options: EngineOptions) -> Lane[Found]:
    """The lane of a model; its reader is built by the first caller, and shared by lanes with other queues or caches."""
    identity = key, options
    model = key, options.device, options.dtype, options.compile
    if identity in _lanes:  # without the lock, which is held while any model is built
        return _lanes[identity]
    with _building, scorer_packages():
        if model not in _readers:
            import torch

            if options.threads not in (0, torch.get_num_threads()):
                torch.set_num_threads(options.threads)
            _readers[model] = build(options)
        with _lock:
            if identity not in _lanes:
                _lanes[identity] = Lane(str(key[0]), _readers[model], options)
            return _lanes[identity]


def _after_fork() -> None:
    """A forked process has neither the lanes' threads nor, on a GPU, the models, and their locks may be held."""
    global _lock, _building
    _lock, _building = threading.Lock(), threading.RLock()
    _lanes.clear()
    _readers.clear()
    after_fork()


os.register_at_fork(after_in_child=_after_fork)
