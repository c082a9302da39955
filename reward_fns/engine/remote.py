"""Rewards that a Ray Serve deployment computes, asked for from where they are needed.

A request is one call of a batched reward, with its options; the replica makes the very call that would have been made
here. It travels as a JSON object over HTTP, or as the same object between processes of a Ray cluster.
"""

from __future__ import annotations

import http.client
import json
import math
import threading
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from reward_fns.errors import UsageError
from reward_fns.registry import Reward
from reward_fns.settings import EngineOptions

APP = "cxr-grpo-scorers"
"""Name of the Ray Serve application."""


_lock = threading.Lock()
_handles: dict[tuple[str, str], Any] = {}


class RemoteFailure(Exception):
    """The deployment couldn't be asked, or couldn't answer; a failure of the scorer, never a score."""


def ask(
    reward: Reward,
    options: Mapping[str, Any],
    predictions: Sequence[str],
    references: Sequence[str],
    engine: EngineOptions,
    timeout: float,
) -> list[float | None]:
    """The values of a reward; blocks, at most for the time limit.

    Raises:
        UsageError: the deployment says that the reward is used wrongly, or there is no deployment.
        RemoteFailure: see the class.
        TimeoutError: it took too long.
    """
    request = {
        "reward": reward.name,
        "options": dict(options),
        "predictions": list(predictions),
        "references": list(references),
        "timeout": timeout,
    }
    answer = _over_ray(request, timeout) if engine.where == "ray" else _over_http(engine.address, request, timeout)
    if not isinstance(answer, dict):
        raise RemoteFailure(f"the deployment answered with {str(answer)[:200]!r}")
    if "usage" in answer:
        raise UsageError(f"the deployment refuses: {answer['usage']}")
    if "error" in answer:
        raise RemoteFailure(str(answer["error"]))
    values = answer.get("values")
    if not isinstance(values, list) or len(values) != len(predictions):
        raise RemoteFailure(f"the deployment answered {len(predictions)} samples with {str(answer)[:200]!r}")
    # JSON has no NaN: it is written as null.
    return [math.nan if value is None else value for value in values]


def _over_ray(request: Mapping[str, Any], timeout: float) -> Any:
    response = _score().remote(request)
    try:
        return response.result(timeout_s=timeout)
    except BaseException:
        response.cancel()  # so that nothing more is computed for it
        raise


def _score() -> Any:
    """The method of the application of the Ray cluster that this process belongs to, or else of this machine's."""
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
            place = context.gcs_address, context.get_job_id()
            if place not in _handles:
                # The method, not the application: Ray 2.60 makes a router for each first use of a handle, which from
                # many threads are many, and autoscaling then sees the requests of the one that reported last.
                _handles[place] = serve.get_app_handle(APP).score
            return _handles[place]
        except (RayServeException, ConnectionError) as error:
            raise UsageError(
                f"no Ray Serve application {APP} ({str(error).partition(chr(10))[0]}); start it with "
                "serve run examples/scorers/serve.yaml, or train with trainer.v1.trainer_mode=cxr_sync, which does"
            ) from error


def leave() -> None:
    """Stop what this process's way to a deployment runs beside it, before the process leaves their Ray cluster.

    It would report to the deployment for ever, and start a cluster for that if there is none.
    """
    with _lock:
        while _handles:
            _handles.popitem()[1].shutdown()


def _over_http(address: str, request: Mapping[str, Any], timeout: float) -> Any:
    parts = urlsplit(address)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=timeout)
    try:
        body = json.dumps(request).encode()
        connection.request("POST", f"{parts.path.rstrip('/')}/score", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        content = response.read()
    except TimeoutError as error:
        raise TimeoutError(f"{address} did not answer within the time limit of {timeout:g} s") from error
    except (OSError, http.client.HTTPException) as error:
        raise RemoteFailure(f"cannot reach the scorers at {address}: {error!r}") from error
    finally:
        connection.close()
    if response.status != 200:
        raise RemoteFailure(f"{address} answered {response.status} {response.reason}: {content[:200]!r}")
    try:
        return json.loads(content)
    except ValueError as error:
        raise RemoteFailure(f"{address} answered with no JSON: {content[:200]!r}") from error
