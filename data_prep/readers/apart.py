"""Calls in a process apart: a decoder that crashes costs one film, not the run, and threads run in parallel.

Each thread has one such process, from its first call to its own end. A process whose parent is gone, even killed, ends
by itself.
"""

import multiprocessing
import resource
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import ParamSpec, TypeVar, cast

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
    held = vars(_threads)
    if not held:
        held["process"], held["connection"] = _start()
    process, connection = held["process"], held["connection"]
    try:
        connection.send((function, arguments))
        failed, answer = connection.recv()
    except BaseException as error:
        held.clear()  # after an interruption, the answer to this call would be taken as the answer to the next
        if not isinstance(error, EOFError | OSError):
            raise
        process.join()
        code = process.exitcode or 0
        raise ProcessDied(signal.strsignal(-code) if code < 0 else f"exit status {code}") from error
    try:
        if failed:
            raise answer
        return cast(T, answer)
    finally:
        del answer  # an exception and the frame that holds it would keep each other, and the process, alive


def _start() -> tuple[SpawnProcess, Connection]:
    # Spawned, not forked: a fork copies locks that other threads hold. Not a ProcessPoolExecutor: its own thread waits
    # for the process too, which hides how the process died.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    try:
        ours.recv()
    except EOFError as error:
        raise RuntimeError(
            "a process apart did not start; a script of your own needs `if __name__ == '__main__':` around its work"
        ) from error
    return process, ours


def _serve(connection: Connection) -> None:
    """Answer calls until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to both; the parent says what happens
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # no dump of memory for each damaged film
    connection.send("ready")
    while True:
        try:
            function, arguments = connection.recv()
        except EOFError:
            return
        try:
            answer = False, function(*arguments)
        except Exception as error:
            answer = True, error
        try:
            connection.send(answer)
        except OSError:  # the parent is gone
            return
