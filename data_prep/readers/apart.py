"""Calls in a process apart: a decoder that crashes takes one film with it, not the run, and threads run side by side.

Each thread has one such process, started at its first call and ended with the thread. A process whose parent is gone,
however it went, ends by itself.
"""

from __future__ import annotations

import os
import resource
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, get_context, parent_process
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class ProcessDied(Exception):
    """The process ended in the middle of a call; the message says how."""


_threads = threading.local()


def apart(function: Callable[P, T], *arguments: P.args, **_: P.kwargs) -> T:
    """Call a function of a module with arguments that can be pickled, in this thread's process apart.

    Raises:
        ProcessDied: it crashed; the next call gets a new process. What the function raises is raised here.
    """
    if not hasattr(_threads, "pool"):
        # Spawned, not forked: a fork copies locks that other threads hold.
        pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_prepare)
        try:
            pool.submit(os.getpid).result()
        except BrokenProcessPool as error:
            raise RuntimeError(
                "a process apart did not start; a script of your own needs `if __name__ == '__main__':` around its work"
            ) from error
        _threads.pool, _threads.process = pool, next(iter(pool._processes.values()))
    try:
        return _threads.pool.submit(function, *arguments).result()
    except BrokenProcessPool as error:
        process = _threads.process
        del _threads.pool
        process.join()
        code = process.exitcode or 0
        raise ProcessDied(signal.strsignal(-code) if code < 0 else f"exit status {code}") from error


def _prepare() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to both; the parent says what happens
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # nobody wants a dump of memory for each damaged film
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None and connection.wait([parent.sentinel]):
        os._exit(1)
