"""A trainer that has gone silent, noticed from outside: our trainers write ``heartbeat.json`` every few seconds."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FILE = "heartbeat.json"
STOPPED = "RUN STOPPED: "  # begins the line in the log in which a trainer says why it ends the run
MIN_SILENCE = 60.0  # seconds


class Silent(Exception):
    """A run shows no sign of life."""


def watch(folder: Path, startup_limit: float | None, clock: Callable[[], float] = time.monotonic) -> Callable[[], None]:
    """What raises Silent once the trainer that writes ``folder/heartbeat.json`` has been silent for too long.

    ``startup_limit`` is in seconds, None for none: how long the first heartbeat may take. After it, the limit is the
    one that the heartbeat itself gives for its phase, at least a minute. An older heartbeat is removed.
    """
    path = folder / FILE
    path.unlink(missing_ok=True)
    last: dict[str, Any] = {}
    since = clock()

    def check() -> None:
        nonlocal last, since
        # When a heartbeat was seen here, not its own time: clocks of two machines differ, and a laptop may have slept.
        if (beat := read(path)) and beat != last:
            last, since = beat, clock()
        silence = clock() - since
        if last and silence > max(MIN_SILENCE, last["silence_limit"]):
            where = "phase {phase!r}, step {step}, process {pid}".format_map(last)
            raise Silent(f"no heartbeat of the trainer for {silence:.0f} s ({where}), so the run was ended")
        if not last and startup_limit is not None and silence > startup_limit:
            raise Silent(
                f"no heartbeat of the trainer in the first {startup_limit / 60:.0f} minutes, so the run was ended; "
                "if models take longer to load, give launch a larger --startup-limit"
            )

    return check


def read(path: Path) -> dict[str, Any]:
    """The last heartbeat: ``time`` (unix), ``step``, ``phase``, ``pid``, ``host``, ``silence_limit``; {} if none."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
