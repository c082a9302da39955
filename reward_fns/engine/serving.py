"""The deployment that computes neural rewards for a whole cluster, with Ray Serve.

Each replica holds one copy of each model and runs the same engine as a worker would (`reward_fns.engine.lanes`), which
batches the requests of all workers. A text belongs to one replica: Ray Serve's router sends a prediction there, and a
replica fetches what was found in a reference from the replica that the reference belongs to. So each distinct text is
read once per deployment. Started with `serve run examples/scorers/serve.yaml`, or by `start`.
"""

from __future__ import annotations

import asyncio
import json
import math
import resource
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, TypeVar

from reward_fns.engine.device import device_of
from reward_fns.engine.lanes import Build, Key, read, sharing, totals, trouble
from reward_fns.engine.placement import check_room
from reward_fns.engine.remote import APP, SESSION_HEADER, session_of, shares
from reward_fns.errors import UsageError, unknown
from reward_fns.registry import get
from reward_fns.settings import EngineOptions, using

if TYPE_CHECKING:
    from ray.serve import Application
    from starlette.requests import Request
    from starlette.responses import Response

Result = TypeVar("Result")

_AT_WORK = 512  # reward calls that a replica works on at once: several batches of a GPU's
_ACCEPTED = 16384  # requests that it accepts; those beyond its reward calls wait in it, and hold up no texts for others
_BODY = 64 << 20
_KEYS = ("reward", "options", "predictions", "references", "timeout")
_ROUTER = "ray.serve.experimental.consistent_hash_router:ConsistentHashRouter"


class Scorers:
    """A replica.

    Args:
        options: of its engine, as a mapping.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        given = EngineOptions(**options)
        models = ("device", "dtype", "compile", "wait_ms", "batch_tokens", "queue", "cache_mb")
        kept = {name: getattr(given, name) for name in models}
        self._options = EngineOptions(threads=given.threads or math.ceil(given.cpus), **kept)
        self._shared, self._lock = shares(given), threading.Lock()
        self._handle: Any = None
        self._places = asyncio.Semaphore(_AT_WORK)
        device_of(self._options)  # raises now if the device is missing, and imports PyTorch before any caller waits

    async def score(self, request: Mapping[str, Any], session: str = "") -> dict[str, Any]:
        """Answer a request of `reward_fns.engine.remote`.

        Args:
            request: see there.
            session: whose texts this replica reads itself, as the request was routed by it.

        Returns:
            `values`, or under `usage` or `error` the reason why there are none.
        """
        try:
            _check(request)
            return {"values": await asyncio.wait_for(self._values(request, session), request["timeout"])}
        except UsageError as error:
            return {"usage": str(error)}
        except asyncio.TimeoutError:
            return {"error": "the scorers had no answer within the time limit"}
        except Exception as error:
            return {"error": repr(error)}

    async def _values(self, request: Mapping[str, Any], session: str) -> list[float | None]:
        reward = get(request["reward"])
        if reward.needs is None or not reward.batched or reward.context:
            raise UsageError(f"a deployment does not compute {reward.name}, only batched rewards that need models")
        reward.check_options(request["options"])
        sides = list(request["predictions"]), list(request["references"])

        def call() -> list[float]:
            with sharing(self._peers(session)):
                return reward(*sides, request["options"], {})

        async with self._places:
            values = await self._in_thread(call, request["timeout"], f"reward {reward.name}")
        return [value if math.isfinite(value) else None for value in values]

    async def found(self, key: Key, build: Build[Any], text: str, timeout: float) -> Any:
        """What a model finds in a text that belongs to this replica; asked for by the others."""
        return await self._in_thread(lambda: read(key, build, [text])[0], timeout, "found")

    def _peers(self, session: str) -> _Replicas | None:
        if not self._shared:
            return None
        with self._lock:  # a handle makes a router at its first use, and one is enough
            if self._handle is None:
                from ray import serve

                context = serve.get_replica_context()
                self._handle = serve.get_deployment_handle(context.deployment, context.app_name).found
        return _Replicas(self._handle, session)

    async def _in_thread(self, call: Callable[[], Result], timeout: float, name: str) -> Result:
        """The result of a call in a thread of its own, as in `reward_fns.calling`: one that hangs blocks nothing."""
        answer: Future[Result] = Future()
        answer.set_running_or_notify_cancel()

        def run() -> None:
            try:
                with using(self._options, timeout):
                    answer.set_result(call())
            except Exception as error:
                answer.set_exception(error)

        threading.Thread(target=run, name=name, daemon=True).start()
        return await asyncio.wrap_future(answer)

    async def __call__(self, request: Request) -> Response:
        """The same over HTTP: POST /score."""
        from starlette.responses import JSONResponse

        if request.url.path.rstrip("/").rpartition("/")[2] != "score" or request.method != "POST":
            return JSONResponse({"usage": "POST a request to /score"}, 404)
        if int(request.headers.get("content-length") or 0) > _BODY:
            return JSONResponse({"usage": f"a request may have at most {_BODY} bytes"}, 413)
        try:
            asked = json.loads(await request.body())
        except ValueError:
            return JSONResponse({"usage": "a request must be JSON"}, 400)
        session = request.headers.get(SESSION_HEADER, "")
        return JSONResponse(await self.score(asked if isinstance(asked, dict) else {}, session))

    def usage(self) -> tuple[str, dict[str, int], dict[str, float], int]:
        """This replica's id, what it counted, the seconds it spent, and the most memory it has used, KiB."""
        from ray import serve

        counts, seconds = totals(self._options)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return serve.get_replica_context().replica_id.unique_id, dict(counts), dict(seconds), peak

    def check_health(self) -> None:
        """Called by Ray Serve, which replaces a replica that raises: after a CUDA error a process is of no more use."""
        if cause := trouble():
            raise RuntimeError(cause)


class _Replicas:
    """All replicas of a deployment, as one that answers a session sees them; see `reward_fns.engine.lanes.Peers`."""

    def __init__(self, handle: Any, session: str) -> None:
        self._handle, self._session = handle, session

    def owns(self, text: str) -> bool:
        return session_of(text) == self._session

    def fetch(self, key: Key, build: Build[Any], text: str, timeout: float) -> Any:
        owner = self._handle.options(session_id=session_of(text))
        return owner.remote(key, build, text, timeout).result(timeout_s=timeout)


def _check(request: Mapping[str, Any]) -> None:
    for key in request:
        if key not in _KEYS:
            raise UsageError(unknown("key of a request", key, _KEYS))
    sides = [request.get(side) for side in ("predictions", "references")]
    if not all(isinstance(side, list) and all(isinstance(text, str) for text in side) for side in sides):
        raise UsageError("predictions and references of a request must be lists of texts")
    if len(sides[0]) != len(sides[1]):  # type: ignore[arg-type]
        raise UsageError("a request must have one reference for each prediction")
    if not isinstance(request.get("reward"), str) or not isinstance(request.get("options"), dict):
        raise UsageError("a request needs a reward and its options")
    timeout = request.get("timeout")
    if type(timeout) not in (int, float) or not 0 < timeout <= 1e6:  # type: ignore[operator]
        raise UsageError(f"timeout of a request must be a number of seconds from 0 to 1e6, got {timeout!r}")


def application(args: Mapping[str, Any]) -> Application:
    """The Ray Serve application, for `import_path: reward_fns.engine.serving:application`.

    Args:
        args: as the entry `engine` of a reward spec with where: ray.

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
                "target_ongoing_requests": _AT_WORK // 4,
                # A step's rewards come in a burst, which Ray Serve's own half a minute would let pass.
                "metrics_interval_s": 2.0,
                "look_back_period_s": 6.0,
                "upscale_delay_s": 6.0,
            },
        }
    if shares(options):
        growth["request_router_config"] = {"request_router_class": _ROUTER}
    deployment: Any = serve.deployment(
        name="Scorers",
        ray_actor_options={"num_gpus": options.gpus, "num_cpus": options.cpus},
        max_ongoing_requests=_ACCEPTED,
        max_queued_requests=_ACCEPTED,
        health_check_period_s=5,
        health_check_timeout_s=120,  # loading a model can hold up everything else
        graceful_shutdown_timeout_s=20,
        **growth,
    )
    return deployment(Scorers).bind(asdict(options))


def start(options: EngineOptions, trainer: Sequence[int] = ()) -> None:
    """Have the application run in this process's Ray cluster, with these options, and wait until it does.

    One that is running with the same options is left as it is; it ends with the cluster, or by `serve.delete`.

    Args:
        options: of the engine.
        trainer: processes that a trainer will place on each of its nodes next, see `reward_fns.engine.placement`.

    Raises:
        UsageError: Ray Serve is missing, or the replicas would take what the trainer needs.
    """
    try:
        from ray import serve
    except ImportError as error:
        raise UsageError(f"where: ray needs Ray Serve ({error}): pip install 'cxr-grpo[serve]'") from error
    # No HTTP here: workers use handles, and a port that nobody asked for is not opened.
    serve.start(proxy_location="Disabled")
    if APP not in serve.status().applications:
        check_room(options, trainer)
    serve.run(application(asdict(options)), name=APP, route_prefix=None)
