"""The deployment that computes neural rewards for a whole cluster, with Ray Serve.

Each replica holds one copy of each model and runs the same engine as a worker would (`reward_fns.engine.lanes`),
which batches what arrives from all sides. Started with `serve run examples/scorers/serve.yaml`, or by `start`.
"""

from __future__ import annotations

import asyncio
import json
import math
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from reward_fns.engine.lanes import peak_memory, totals, trouble
from reward_fns.engine.remote import APP
from reward_fns.errors import UsageError, unknown
from reward_fns.models.encoder import device_of
from reward_fns.registry import get
from reward_fns.settings import EngineOptions, using

if TYPE_CHECKING:
    from ray.serve import Application
    from starlette.requests import Request
    from starlette.responses import Response

_ONGOING = 512  # requests that a replica takes at once: several batches of a GPU's
_WAITING = 16384  # beyond those, over all replicas, before a client is told to come back later
_BODY = 64 << 20
_KEYS = ("reward", "options", "predictions", "references", "timeout")


class Scorers:
    """A replica.

    Args:
        options: of its engine, as a mapping.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        given = EngineOptions(**options)
        # What is about replicas is no matter of the engine in one of them.
        self._options = EngineOptions(
            device=given.device, dtype=given.dtype, compile=given.compile, wait_ms=given.wait_ms,
            threads=given.threads or math.ceil(given.cpus), batch_tokens=given.batch_tokens, queue=given.queue,
            cache_mb=given.cache_mb, cache_dir=given.cache_dir,
        )  # fmt: skip
        device_of(self._options)  # which says at once if it isn't there, and imports PyTorch before anyone waits

    async def score(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Answer a request of `reward_fns.engine.remote`.

        Returns:
            `values`, or under `usage` or `error` why there are none.
        """
        try:
            _check(request)
            return {"values": await asyncio.wait_for(self._values(request), request["timeout"])}
        except UsageError as error:
            return {"usage": str(error)}
        except asyncio.TimeoutError:
            return {"error": "the scorers had no answer within the time limit"}
        except Exception as error:
            return {"error": repr(error)}

    async def _values(self, request: Mapping[str, Any]) -> list[float | None]:
        reward = get(request["reward"])
        if reward.needs is None or not reward.batched or reward.context:
            raise UsageError(f"{reward.name} is no reward that a deployment computes")
        reward.check_options(request["options"])
        sides = list(request["predictions"]), list(request["references"])
        answer: Future[list[float]] = Future()
        answer.set_running_or_notify_cancel()

        def run() -> None:
            try:
                with using(self._options, request["timeout"]):
                    answer.set_result(reward(*sides, request["options"], {}))
            except Exception as error:
                answer.set_exception(error)

        # In a thread of its own, as in `reward_fns.calling`: one that hangs holds up nobody.
        threading.Thread(target=run, name=f"reward {reward.name}", daemon=True).start()
        return [value if math.isfinite(value) else None for value in await asyncio.wrap_future(answer)]

    async def __call__(self, request: Request) -> Response:
        """The same over HTTP: POST /score."""
        from starlette.responses import JSONResponse

        if request.url.path.rstrip("/").rpartition("/")[2] != "score" or request.method != "POST":
            return JSONResponse({"usage": "POST a request to /score"}, 404)
        if int(request.headers.get("content-length") or 0) > _BODY:
            return JSONResponse({"usage": f"a request may have {_BODY} bytes"}, 413)
        try:
            asked = json.loads(await request.body())
        except ValueError:
            return JSONResponse({"usage": "a request is JSON"}, 400)
        return JSONResponse(await self.score(asked if isinstance(asked, dict) else {}))

    def usage(self) -> tuple[dict[str, int], dict[str, float], int]:
        """What this replica has counted, the seconds it spent, and its memory in bytes, at most so far."""
        counts, seconds = totals(self._options)
        return dict(counts), dict(seconds), peak_memory()

    def check_health(self) -> None:
        """Called by Ray Serve, which replaces a replica that raises: after a CUDA error a process is of no more use."""
        if cause := trouble():
            raise RuntimeError(cause)


def _check(request: Mapping[str, Any]) -> None:
    for key in request:
        if key not in _KEYS:
            raise UsageError(unknown("key of a request", key, _KEYS))
    sides = [request.get(side) for side in ("predictions", "references")]
    if not all(isinstance(side, list) and all(isinstance(text, str) for text in side) for side in sides):
        raise UsageError("predictions and references of a request must be lists of texts")
    if len(sides[0]) != len(sides[1]):  # type: ignore[arg-type]
        raise UsageError("predictions and references of a request must be as many")
    if not isinstance(request.get("reward"), str) or not isinstance(request.get("options"), dict):
        raise UsageError("a request needs a reward and its options")
    timeout = request.get("timeout")
    if type(timeout) not in (int, float) or not 0 < timeout <= 1e6:  # type: ignore[operator]
        raise UsageError(f"timeout of a request must be a number of seconds from 0 to 1e6, got {timeout!r}")


def application(args: Mapping[str, Any]) -> Application:
    """The Ray Serve application, for `import_path: reward_fns.engine.serving:application`.

    Args:
        args: as the entry `engine` of a reward spec, of where: ray.

    Raises:
        UsageError: an option is unknown or wrong.
    """
    from ray import serve

    valid = [key.name for key in fields(EngineOptions)]
    for name in args:
        if name not in valid:
            raise UsageError(f"scorers: {unknown('key', name, valid)}")
    options = EngineOptions(**{**args, "where": "ray"})
    growth: dict[str, Any] = {"num_replicas": options.replicas}
    if options.max_replicas > options.replicas:
        growth = {
            "num_replicas": None,
            "autoscaling_config": {
                "min_replicas": options.replicas,
                "max_replicas": options.max_replicas,
                "target_ongoing_requests": _ONGOING // 4,
                # A step's rewards come in a burst, which Ray Serve's own half a minute would let pass.
                "metrics_interval_s": 2.0,
                "look_back_period_s": 6.0,
                "upscale_delay_s": 6.0,
            },
        }
    deployment: Any = serve.deployment(
        name="Scorers",
        ray_actor_options={"num_gpus": options.gpus, "num_cpus": options.cpus},
        max_ongoing_requests=_ONGOING,
        max_queued_requests=_WAITING,
        health_check_period_s=5,
        health_check_timeout_s=120,  # loading a model can hold up everything else
        graceful_shutdown_timeout_s=20,
        **growth,
    )
    return deployment(Scorers).bind(asdict(options))


def start(options: EngineOptions) -> None:
    """Have the application run in this process's Ray cluster, with these options, and wait until it does.

    One that is running with the same options is left as it is; it ends with the cluster, or by `serve.delete`.

    Raises:
        UsageError: Ray Serve is missing.
    """
    try:
        from ray import serve
    except ImportError as error:
        raise UsageError(f"where: ray needs Ray Serve ({error}): pip install 'cxr-grpo[serve]'") from error
    # No HTTP here: workers use handles, and a port that nobody asked for is not opened.
    serve.start(proxy_location="Disabled")
    serve.run(application(asdict(options)), name=APP, route_prefix=None)
