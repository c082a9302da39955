"""The one way to the neural models: whoever asks, each text is read once, in batches with everyone else's.

A reward asks for single texts, from whichever thread verl calls it in. Per model there is a lane: a queue and one
thread, which collects texts for a few milliseconds, sorts them by length and reads them in batches of so many tokens.
A text that is known, waiting or being read already is not read again.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

from reward_fns.engine.lane import Found, Lane, Reader, after_fork
from reward_fns.models.encoder import set_threads
from reward_fns.models.weights import pinned_model
from reward_fns.settings import EngineOptions, current

Key = tuple[Hashable, ...]
Tap = dict[tuple[Key, str], Any]


@contextlib.contextmanager
def tapped(tap: Tap) -> Iterator[None]:
    """While in here, all that any thread is told that was found goes into a dictionary, too."""
    _taps.append(tap)
    try:
        yield
    finally:
        _taps.remove(tap)


def read(key: Key, build: Callable[[EngineOptions], Reader[Found]], texts: Sequence[str]) -> list[Found]:
    """What a model finds in texts, in their order.

    Safe to call from any number of threads. The model is built by the first call, under the options in force.

    Args:
        key: what tells this model from all others.
        build: makes its reader.
        texts: to be read.

    Raises:
        UsageError: from `build`.
        TimeoutError: the time that the caller has is over.
        Exception: what the model raised, on the text alone if it was in a batch.
    """
    setting = current()
    if not texts:
        return []
    lane = _lane(key, build, setting.options)
    found = lane.read(texts, setting.deadline)
    for tap in _taps:
        tap.update({(key, text): what for text, what in zip(texts, found, strict=True)})
    return found


_lanes: dict[tuple[Key, EngineOptions], Lane[Any]] = {}
_taps: list[Tap] = []
_lock = threading.Lock()


def lanes() -> dict[tuple[Key, EngineOptions], Lane[Any]]:
    """The lanes of this process, by model and options."""
    with _lock:
        return dict(_lanes)


def totals(options: EngineOptions) -> tuple[Counter[str], Counter[str]]:
    """What the lanes of this process that have these options have counted, and the seconds they spent, all together."""
    counts: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    for (_, own), lane in lanes().items():
        if own == options:
            counts.update(lane.counts)
            seconds.update(lane.seconds)  # type: ignore[arg-type]
    return counts, seconds


def peak_memory() -> int:
    """Most main memory that this process has had so far, bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def forget() -> None:
    """Let all lanes forget what they have found and counted, as if new, while nobody asks them anything."""
    for lane in lanes().values():
        lane.forget()


def trouble() -> str | None:
    """Why this process should be replaced: its device is beyond help. None if all is well."""
    return next((lane.trouble for lane in lanes().values() if lane.trouble), None)


def _lane(key: Key, build: Callable[[EngineOptions], Reader[Found]], options: EngineOptions) -> Lane[Found]:
    place = key, options
    if place not in _lanes:
        model = key, options.device, options.dtype, options.compile

        def made() -> Reader[Found]:
            set_threads(options.threads)
            return build(options)

        reader = pinned_model(model, made)
        with _lock:
            if place not in _lanes:
                _lanes[place] = Lane(str(key[0]), reader, options)
    return _lanes[place]


def _after_fork() -> None:
    """A forked process has neither the threads of the lanes nor, on a GPU, the models."""
    global _lock
    _lock = threading.Lock()
    _lanes.clear()
    after_fork()


os.register_at_fork(after_in_child=_after_fork)
