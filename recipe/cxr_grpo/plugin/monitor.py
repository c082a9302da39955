"""A thread beside the trainer that ends a run which can't go on, and says why; and the heartbeat of a run."""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import ray

from recipe.cxr_grpo.plugin.failure_rates import Totals, total
from recipe.cxr_grpo.records import heartbeat

POLL_SECONDS = 2.0
GRACE_SECONDS = 15.0  # for the trainer to raise the cause itself; the process ends after that
UNKNOWN_LIMIT = 1800.0  # seconds without progress in a phase that has never ended: nothing is known of it
LEAST_LIMIT = 60.0
FACTOR = 10.0  # a phase may go without progress this many times as long as it ever did


class RunStopped(Exception):
    """A run that can't go on: a part of it died, it makes no progress, too many rewards fail, or the loss is NaN."""


class Peer(NamedTuple):
    """An actor of the run: its handle, and the function of the actor that a ping runs inside it."""

    handle: Any
    ping: Callable[[Any], Any]


def engine_is_dead(server: Any) -> bool:
    """Whether the vLLM engine of verl's server actor died; runs inside the actor. Others have no such state."""
    return bool(getattr(getattr(server, "engine", None), "errored", False))


def alive(_actor: Any) -> None:
    """Nothing: an actor that runs this is alive."""


class Monitor(threading.Thread):
    """Pings the actors of a run, follows its progress and its failing rewards, and writes a heartbeat.

    ``verdict`` gets the rewards' counts so far and returns why the run can't go on, or None. A cause is printed at once
    and raised by :meth:`check` in the trainer's own thread; a trainer that hangs is ended after a grace period.
    """

    def __init__(self, folder: Path, verdict: Callable[[Totals], str | None]) -> None:
        super().__init__(name="run monitor", daemon=True)
        self.folder, self.verdict = folder, verdict
        self.peers: dict[str, Peer] = {}
        self.pending: dict[str, Any] = {}
        self.counted: dict[str, Totals] = {}  # by reward worker
        self.cause: str | None = None
        self.step = 0
        self.phase, self.progress = "start-up", time.monotonic()
        self.longest: dict[str, float] = {}  # per phase that has ended: seconds that it went without progress
        self.silence = 0.0  # the longest so far in this phase
        self.done, self.stopped = threading.Event(), threading.Event()

    def watch(self, peers: Mapping[str, Peer]) -> None:
        """Ping these actors from now on."""
        self.peers = {**self.peers, **peers}

    def enter(self, phase: str, step: int) -> None:
        """Note that the trainer has come to a phase of a step."""
        self.moved()
        self.longest[self.phase] = max(self.silence, self.longest.get(self.phase, 0.0))
        self.phase, self.step, self.silence = phase, step, 0.0

    def moved(self) -> None:
        """Note progress."""
        now = time.monotonic()
        self.silence, self.progress = max(self.silence, now - self.progress), now

    def limit(self) -> float:
        """Seconds that the present phase may go without progress."""
        known = self.longest.get(self.phase)
        return UNKNOWN_LIMIT if known is None else max(LEAST_LIMIT, FACTOR * known)

    def stop(self, cause: str) -> None:
        """Let the run end, for this cause, as soon as the trainer calls :meth:`check`; the first cause stays."""
        if self.cause is None:
            self.cause = cause
            print(f"{heartbeat.STOPPED}{cause}", file=sys.stderr, flush=True)
            self.stopped.set()

    def check(self) -> None:
        """Raise the cause for which the run has to end, if there is one, in the thread of the caller."""
        if self.cause:
            raise RunStopped(self.cause)

    def check_soon(self) -> None:
        """The same, for a cause that two more rounds of pings may find."""
        self.stopped.wait(3 * POLL_SECONDS)
        self.check()

    def end(self, cause: str) -> NoReturn:
        """End the run, for this cause, now."""
        self.stop(cause)
        raise RunStopped(cause)

    def run(self) -> None:
        """Watch until the trainer is done; end its process if it hangs when the run has to end."""
        while not self.done.wait(POLL_SECONDS):
            self.beat()
            if cause := self.cause or self.dead_actor() or self.hang() or self.verdict(total(self.counted.values())):
                self.stop(cause)
                if not self.done.wait(GRACE_SECONDS):
                    os._exit(1)
                return

    def beat(self) -> None:
        """Write the heartbeat, which launch reads; a full disk must not end the thread."""
        process = {"pid": os.getpid(), "host": os.uname().nodename}
        state = {"time": time.time(), "step": self.step, "phase": self.phase} | process
        temporary = self.folder / f"{heartbeat.FILE}.tmp"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(state | {"silence_limit": self.limit()}))
            os.replace(temporary, self.folder / heartbeat.FILE)
        except OSError as error:
            print(f"the heartbeat can't be written: {error}", file=sys.stderr, flush=True)

    def dead_actor(self) -> str | None:
        """Which actor died, if one did. A busy one answers later: one ping at a time waits in it."""
        for name, peer in self.peers.items():
            try:
                if name not in self.pending:
                    self.pending[name] = peer.handle.__ray_call__.remote(peer.ping)
                ready, _ = ray.wait([self.pending[name]], timeout=0)
                if not ready:
                    continue
                answer = ray.get(self.pending.pop(name))
            except ray.exceptions.RayActorError as error:
                return f"{name} died: {str(error).splitlines()[0]}"
            if peer.ping is engine_is_dead and answer:
                return f"the vLLM engine of {name} died; the last lines of its output are in the log"
            if isinstance(answer, dict) and answer != self.counted.get(name):
                self.counted[name] = answer
                self.moved()
        return None

    def hang(self) -> str | None:
        """That the run has gone without progress for too long, if so."""
        seconds = time.monotonic() - self.progress
        if seconds <= self.limit():
            return None
        known = self.longest.get(self.phase)
        usual = "it is the first of its kind" if known is None else f"earlier ones took at most {known:.0f} s"
        return (
            f"no progress for {seconds:.0f} s in step {self.step}, phase {self.phase!r} ({usual}). "
            f"`py-spy dump --pid {os.getpid()}` shows where such a trainer waits"
        )
