"""Run one command and end every process that it started, however it ends.

Ray's daemons leave their driver's process group, and ``ray stop`` would end every Ray on the machine. So each run has a
supervisor, a process that survives this one and ends all that are below it. It also marks the run's environment, which
all descendants inherit: where the supervisor itself was killed, processes with this mark are ended.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

MARK = "CXR_GRPO_RUN"  # environment variable with the identifier of a run
POLL_SECONDS = 0.5


def end_marked(mark: str, *, descendants: bool = False, grace: float = 5.0) -> None:
    """End all processes but the caller that carry ``mark``: with SIGTERM, and after ``grace`` seconds with SIGKILL.

    With ``descendants``, also every process below the caller, with or without the mark.
    """
    for attempt in range(5):  # a process may still start another while it is being ended
        processes = {process for process in psutil.process_iter() if carries(process.pid, mark)}
        if descendants:
            processes.update(psutil.Process().children(recursive=True))
        if not processes:
            break
        for process in processes:
            with contextlib.suppress(psutil.Error):  # gone
                (process.kill if attempt else process.terminate)()
        psutil.wait_procs(processes, timeout=grace)


def carries(pid: int, mark: str) -> bool:
    """Whether another process of this user has ``mark`` in its environment.

    Not psutil's ``environ()``, which ends at the first gap: a process that has named itself, as Ray's agents do, has
    overwritten the beginning of it.
    """
    with contextlib.suppress(OSError):  # another user's, or gone
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        return pid != os.getpid() and f"{MARK}={mark}".encode() in environment
    return False


@contextlib.contextmanager
def signals(handler: Any, *numbers: signal.Signals) -> Iterator[None]:
    """Handle signals so, except those that are ignored, as under nohup."""
    heeded = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, handler) for number in heeded}
    try:
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, old)


def run(
    command: Sequence[str],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    watch: Callable[[], None] = lambda: None,
    held: Sequence[int] = (),
) -> int:
    """The exit status of ``command``, run with its output in ``log``. No process of it survives this call or process.

    ``env`` is added to this process's environment; ``watch`` is called twice a second. ``{RAY_TMP}`` in ``command``
    becomes a private, short-lived folder, whose name is short enough for the socket paths that Ray makes in it. The
    command keeps the descriptors ``held`` open. What it writes is for this user only.
    """
    mark = uuid.uuid4().hex
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="cxr-", ignore_cleanup_errors=True))
        sink = stack.enter_context(open(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab"))
        ray = os.path.join(folder, "ray")  # Ray opens its folder to everybody; the one above it stays closed
        os.mkdir(ray)
        arguments = [sys.executable, "-m", f"{__package__}.supervisor", mark, folder]
        arguments += [argument.replace("{RAY_TMP}", ray) for argument in command]
        # SIGTERM and SIGHUP end a run as Ctrl-C does, with the clean-up, which nothing interrupts.
        with signals(signal.default_int_handler, signal.SIGTERM, signal.SIGHUP):
            streams: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": sink, "stderr": subprocess.STDOUT}
            # In a session of its own: Ctrl-C reaches only this process, which then ends the run.
            process = subprocess.Popen(
                arguments, env={**os.environ, **(env or {})}, start_new_session=True, pass_fds=held, **streams
            )
            try:
                while process.poll() is None:
                    watch()
                    time.sleep(POLL_SECONDS)
                watch()
                return process.returncode
            finally:
                with signals(signal.SIG_IGN, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                    process.communicate()  # the end of the pipe is the supervisor's sign to end the run
                    end_marked(mark)  # where somebody has killed the supervisor
