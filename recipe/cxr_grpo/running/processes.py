"""Run one command and end every process that it started, however it ends.

Ray's daemons leave their driver's process group, and ``ray stop`` would end every Ray on the machine. So each run marks
its environment, which all its descendants inherit, and only processes with this mark are ended.
"""

import contextlib
import fcntl
import os
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from reward_fns.errors import UsageError

MARK = "CXR_GRPO_RUN"  # environment variable with the identifier of a run
POLL_SECONDS = 0.5


def end_marked(mark: str, grace: float = 5.0) -> None:
    """End all processes but the caller that carry ``mark``: with SIGTERM, and after ``grace`` seconds with SIGKILL."""
    for attempt in range(5):  # a process may still start another while it is being ended
        processes = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):  # of another user, or gone
                if process.pid != os.getpid() and process.environ().get(MARK) == mark:
                    processes.append(process)
                    (process.kill if attempt else process.terminate)()
        if not processes:
            break
        psutil.wait_procs(processes, timeout=grace)


@contextlib.contextmanager
def machine_lock(name: str, refusal: str) -> Iterator[None]:
    """Hold the lock ``name``; UsageError with ``refusal`` if another process on this machine holds it."""
    path = Path(f"/tmp/{name}.lock")  # not TMPDIR, which differs between users
    if not path.exists():
        path.touch(0o644)
    descriptor = os.open(path, os.O_RDONLY)  # another user's file can be locked, too
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise UsageError(refusal) from error
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _signals(handler: Any, *numbers: signal.Signals) -> Iterator[None]:
    previous = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, old)


def run(
    command: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None, watch: Callable[[], None] = lambda: None
) -> int:
    """The exit status of ``command``, run with its output in ``log``. No process of it survives this call.

    ``env`` is added to this process's environment; ``watch`` is called twice a second. ``{RAY_TMP}`` in ``command``
    becomes a private, short-lived folder, whose name is short enough for the socket paths that Ray makes in it.
    """
    mark = uuid.uuid4().hex
    with tempfile.TemporaryDirectory(prefix="cxr-", ignore_cleanup_errors=True) as folder, log.open("ab") as sink:
        arguments = [argument.replace("{RAY_TMP}", folder) for argument in command]
        # SIGTERM and SIGHUP end a run as Ctrl-C does, with the clean-up, which nothing interrupts.
        with _signals(signal.default_int_handler, signal.SIGTERM, signal.SIGHUP):
            given = {**os.environ, **(env or {}), MARK: mark}
            streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": sink, "stderr": subprocess.STDOUT}
            # In a session of its own: Ctrl-C reaches only this process, which then ends the run.
            process = subprocess.Popen(arguments, env=given, start_new_session=True, **streams)
            try:
                while process.poll() is None:
                    watch()
                    time.sleep(POLL_SECONDS)
                watch()
                return process.returncode
            finally:
                with _signals(signal.SIG_IGN, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                    end_marked(mark)
                    process.wait()
