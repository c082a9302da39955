"""Locks between runs: one run on a machine, one run in a folder."""

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from reward_fns.errors import UsageError


@contextlib.contextmanager
def lock(path: Path, refusal: str) -> Iterator[int | None]:
    """Hold the lock file ``path``; UsageError with ``refusal`` if another process on this machine holds it.

    Yields its descriptor, None on a file system without locks: the lock is held until every process that inherits the
    descriptor has ended. UsageError, too, for a path that is no plain file or can't be read.
    """
    descriptor = _open_lock(path)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(refusal) from error
        except OSError:
            yield None
        else:
            yield descriptor
    finally:
        os.close(descriptor)


def _open_lock(path: Path) -> int:
    # Neither somebody else's file behind a symbolic link, nor the wait for the other end of a FIFO.
    flags = os.O_NOFOLLOW | os.O_NONBLOCK
    if not path.exists():
        flags |= os.O_CREAT | os.O_RDWR  # NFS locks only what is open for writing
    else:  # without O_CREAT, which Linux refuses for another user's file in a folder such as /tmp
        flags |= os.O_RDWR if os.access(path, os.W_OK) else os.O_RDONLY
    try:
        descriptor = os.open(path, flags, 0o644)
    except OSError as error:
        reason = "it is a symbolic link" if path.is_symlink() else error.strerror
        raise UsageError(f"{path} can't be used as a lock: {reason}. Ask its owner to remove it.") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise UsageError(f"{path} can't be used as a lock: it is no plain file. Ask its owner to remove it.")
    if status.st_uid == os.geteuid():
        os.fchmod(descriptor, 0o644)  # whatever the umask, the next user has to read it
    return descriptor
