"""Start a run's command and end all its processes when the command ends, or when the caller dies in any way.

``python -m recipe.cxr_grpo.running.supervisor MARK FOLDER COMMAND…``, with a pipe from the caller as standard input:
its end says that the caller is gone, also where SIGKILL left the caller no time to say so. FOLDER is removed.
"""

import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence

from recipe.cxr_grpo.running.processes import MARK, POLL_SECONDS, end_marked

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


def main(arguments: Sequence[str]) -> int:
    """The exit status of the command, 128 plus the number of a signal that ended it; 1 if the caller was gone first."""
    mark, folder, *command = arguments
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # for the caller; Slurm may send it to all processes of a job's step
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)  # daemons stay below this process when their parents end
    try:
        child = subprocess.Popen(
            command,
            env={**os.environ, MARK: mark},
            stdin=subprocess.DEVNULL,
            umask=0o077,  # logs, dumps and metrics hold text of reports
            close_fds=False,  # the caller's locks stay held as long as this process or the command lives
            # Safe here, in a process of one thread: the command ends even if this process is killed, too.
            preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),
        )
        while (status := _status(child)) is None and not select.select([sys.stdin], [], [], POLL_SECONDS)[0]:
            pass
    finally:
        end_marked(mark, descendants=True)
        shutil.rmtree(folder, ignore_errors=True)
    if status is None:
        return 1
    return status if status >= 0 else 128 - status


def _status(child: subprocess.Popen) -> int | None:
    """The exit status of the child, None while it runs; orphans that have ended meanwhile are reaped."""
    while found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        if found.si_pid == child.pid:
            break
        os.waitpid(found.si_pid, 0)
    return child.poll()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
