"""Rewards that a Ray Serve deployment computes, asked for from the processes that need them.

A request is one call of a batched reward: a JSON object over HTTP, or the same between processes of a Ray cluster.
"""

import contextlib
import hashlib
import http.client
import json
import math
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from reward_fns.errors import UsageError
from reward_fns.registry import Reward
from reward_fns.settings import EngineOptions

APP = "cxr-grpo-scorers"  # name of the Ray Serve application
SESSION_HEADER = "x-session-id"  # by which Ray Serve's proxy routes a request to a replica
_START = 200  # characters of a text that decide which replica reads it
_BODY = 4 << 20  # bytes of an answer over HTTP

_lock = threading.Lock()
_handles: dict[tuple[str, str], Any] = {}


class RemoteFailure(Exception):
    """The deployment couldn't be reached or couldn't answer; a failure of the scorer, never a score."""


def session_of(text: str) -> str:
    """The session of Ray Serve that a text belongs to, and so its replica; case, white space and a cut end don't count.

    >>> session_of("The  Heart is enlarged.") == session_of(" the heart is enlarged."), session_of("No edema.")
    (True, '320ff8842bc9a00a')
    """
    start = " ".join(text[: 4 * _START].lower().split())[:_START]
    return hashlib.blake2b(start.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def shares(engine: EngineOptions) -> bool:
    """Whether a deployment with these options may have several replicas, which then share the texts."""
    return max(engine.replicas, engine.max_replicas) > 1


def ask(
    reward: Reward,
    options: Mapping[str, Any],
    predictions: Sequence[str],
    references: Sequence[str],
    engine: EngineOptions,
    timeout: float,
) -> list[float | None]:
    """The values of a reward; blocks, at most for the time limit, and then raises TimeoutError.

    Raises UsageError if there is no deployment or it says that the reward is used wrongly, else RemoteFailure.
    """
    request = {"reward": reward.name, "options": dict(options), "timeout": timeout}
    request |= {"predictions": list(predictions), "references": list(references)}
    if engine.where == "http":
        return _values(_over_http(engine.address, request, timeout), len(predictions))
    return _over_ray(request, timeout, shares(engine))


def _values(answer: Any, count: int) -> list[float | None]:
    if not isinstance(answer, dict):
        raise RemoteFailure(f"the deployment answered with {str(answer)[:200]!r}")
    if "usage" in answer:
        raise UsageError(f"the deployment refuses: {answer['usage']}")
    if "error" in answer:
        raise RemoteFailure(str(answer["error"]))
    values = answer.get("values")
    if not isinstance(values, list) or len(values) != count:
        raise RemoteFailure(f"the deployment answered {count} samples with {str(answer)[:200]!r}")
    # JSON has no NaN: it is written as null.
    return [math.nan if value is None else value for value in values]


def _over_ray(request: Mapping[str, Any], timeout: float, shared: bool) -> list[float | None]:
    deadline, handle = time.monotonic() + timeout, _score()
    groups: dict[str, list[int]] = {}
    for i, prediction in enumerate(request["predictions"]):
        groups.setdefault(session_of(prediction) if shared else "", []).append(i)
    responses = []
    for session, group in groups.items():
        part = {side: [request[side][i] for i in group] for side in ("predictions", "references")}
        to_replica = handle.options(session_id=session) if shared else handle
        responses.append((group, to_replica.remote({**request, **part}, session)))
    values: dict[int, float | None] = {}
    try:
        for group, response in responses:
            answer = response.result(timeout_s=max(0.0, deadline - time.monotonic()))
            values |= zip(group, _values(answer, len(group)), strict=True)
    except BaseException:
        for _, response in responses:
            response.cancel()  # so that nothing more is computed for it
        raise
    return [values[i] for i in range(len(values))]


def _score() -> Any:
    """The application's method, in the Ray cluster of this process, or else of this machine."""
    try:
        import ray
        from ray import serve
        from ray.serve.exceptions import RayServeException
    except ImportError as error:
        raise UsageError(f"where: ray needs Ray Serve ({error}): pip install 'cxr-grpo[serve]'") from error
    with _lock:
        try:
            if not ray.is_initialized():
                ray.init(address="auto", log_to_driver=False)
            context = ray.get_runtime_context()
            cluster = context.gcs_address, context.get_job_id()
            if cluster not in _handles:
                # The method, not the application: Ray 2.60 makes a router for each first use of a handle, which from
                # many threads are many, and autoscaling then sees the requests of the one that reported last.
                _handles[cluster] = serve.get_app_handle(APP).score
            return _handles[cluster]
        except (RayServeException, ConnectionError) as error:
            raise UsageError(
                f"no Ray Serve application {APP} ({str(error).partition(chr(10))[0]}); start it with "
                "serve run examples/scorers/serve.yaml, or train with trainer.v1.trainer_mode=cxr_sync, which does"
            ) from error


def leave() -> None:
    """Stop the threads that report to deployments, before this process leaves: they would start a new cluster."""
    with _lock:
        while _handles:
            _handles.popitem()[1].shutdown()


def _over_http(address: str, request: Mapping[str, Any], timeout: float) -> Any:
    parts = urlsplit(address)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    # No proxy, which would know nothing of a cluster's nodes, and no redirect.
    connection = kind(parts.hostname or "", parts.port, timeout=timeout)
    headers = {"Content-Type": "application/json", SESSION_HEADER: session_of("".join(request["predictions"][:1]))}
    deadline = time.monotonic() + timeout
    late = TimeoutError(f"{address} did not answer within the time limit of {timeout:g} s")
    try:
        connection.connect()
        # The connection's own limit is for each read, and so endless where a server sends byte by byte.
        limit = threading.Timer(max(0.0, deadline - time.monotonic()), _cut, [connection.sock])
        limit.daemon = True
        limit.start()
        try:
            connection.request("POST", f"{parts.path.rstrip('/')}/score", json.dumps(request).encode(), headers)
            response = connection.getresponse()
            content = response.read(_BODY + 1)
        finally:
            limit.cancel()
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, TimeoutError) or time.monotonic() >= deadline:
            raise late from error
        raise RemoteFailure(f"cannot reach the scorers at {address}: {error!r}") from error
    finally:
        connection.close()
    if time.monotonic() >= deadline:  # a read that was cut ends like any other
        raise late
    if len(content) > _BODY:
        raise RemoteFailure(f"{address} answered with more than {_BODY >> 20} MiB")
    if response.status != 200:
        raise RemoteFailure(f"{address} answered {response.status} {response.reason}: {content[:200]!r}")
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise RemoteFailure(f"{address} answered with invalid JSON: {content[:200]!r}") from error


def _cut(connection: socket.socket) -> None:
    """End a connection under the hands of the thread that reads from it."""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)  # of TCP, also under TLS
