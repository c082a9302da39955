"""The deployment that computes neural rewards for a whole cluster, with Ray Serve.

Each replica runs a worker's engine (`reward_fns.engine.lanes`) for all workers. A text belongs to one replica: Ray
Serve's router sends a prediction there, and a replica fetches what was found in a reference from the reference's. So
each distinct text is read once. Started with `serve run examples/scorers/serve.yaml`, or by `start`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import resource
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from reward_fns.calling import run_in_thread
from reward_fns.engine.device import device_of
from reward_fns.engine.lanes import Build, Key, read, totals, trouble
from reward_fns.engine.remote import APP, SESSION_HEADER, session_of, shares
from reward_fns.errors import UsageError, unknown
from reward_fns.registry import get
from reward_fns.settings import REMOVED, CallSeconds, EngineOptions, check_value, from_mapping, using

if TYPE_CHECKING:
    from ray.serve import Application
    from starlette.requests import Request
    from starlette.responses import Response

_AT_WORK = 512  # reward calls that a replica works on at once: several batches of a GPU's
_ACCEPTED = 16384  # requests that it accepts; those beyond its reward calls wait in it, and hold up no texts for others
_BODY = 64 << 20  # bytes of a request over HTTP
_REQUEST = {"reward": str, "options": dict, "predictions": list, "references": list, "timeout": CallSeconds}
TRAINER_CPUS = 3
"""CPUs that verl 0.9.1 reserves with the whole GPU of each training process (RayResourcePool.max_colocate_count)."""
_ROUTER = "ray.serve.experimental.consistent_hash_router:ConsistentHashRouter"
_log = logging.getLogger(__name__)


class Scorers:
    """A replica."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        given = EngineOptions(**options)
        own = replace(given, where="inline", replicas=1, max_replicas=0, gpus=0.0, cpus=1.0)
        self._options = replace(own, threads=given.threads or math.ceil(given.cpus))
        self._shared, self._lock = shares(given), threading.Lock()
        self._handle: Any = None
        self._places = asyncio.Semaphore(_AT_WORK)
        device_of(self._options)  # raises now if the device is missing, and imports PyTorch before any caller waits

    async def score(self, request: Mapping[str, Any], session: str = "") -> dict[str, Any]:
        """The `values` for a request of `reward_fns.engine.remote`, or under `usage` or `error` why there are none.

        It was routed by `session`, whose texts this replica reads itself.
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

        def call() -> list[float]:
            with using(self._options, request["timeout"], self._peers(session)):
                return reward(request["predictions"], request["references"], request["options"], {})

        async with self._places:
            values = await run_in_thread(call, reward.name)
        return [value if math.isfinite(value) else None for value in values]

    async def found(self, key: Key, build: Build[Any], text: str, timeout: float) -> Any:
        """What a model finds in a text that belongs to this replica; asked for by the others."""
        (found,) = await run_in_thread(lambda: using(self._options, timeout)(read)(key, build, [text]), "found")
        return found

    def _peers(self, session: str) -> _Replicas | None:
        if not self._shared:
            return None
        with self._lock:  # a handle makes a router at its first use, and one is enough
            if self._handle is None:
                from ray import serve

                context = serve.get_replica_context()
                self._handle = serve.get_deployment_handle(context.deployment, context.app_name).found
        return _Replicas(self._handle, session)

    async def __call__(self, request: Request) -> Response:
        """The same over HTTP: POST /score."""
        from starlette.responses import JSONResponse

        if request.url.path.rstrip("/").rpartition("/")[2] != "score" or request.method != "POST":
            return JSONResponse({"usage": "POST a request to /score"}, 404)
        body = bytearray()
        async for part in request.stream():  # counted as it comes: a request in chunks does not say its length
            body += part
            if len(body) > _BODY:
                return JSONResponse({"usage": f"a request may have at most {_BODY} bytes"}, 413)
        try:
            asked = json.loads(body)
        except (ValueError, RecursionError):
            return JSONResponse({"usage": "a request must be JSON"}, 400)
        asked = asked if isinstance(asked, dict) else {}
        return JSONResponse(await self.score(asked, request.headers.get(SESSION_HEADER, "")))

    def usage(self) -> tuple[str, dict[str, int], dict[str, float], int]:
        """This replica's id, what it counted, the seconds it spent, and the most memory it has used, KiB."""
        from ray import serve

        counts, seconds = totals(self._options)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return serve.get_replica_context().replica_id.unique_id, dict(counts), dict(seconds), peak

    def check_health(self) -> None:
        """Raise after a CUDA error, from which a process can't recover: Ray Serve then replaces the replica."""
        if cause := trouble():
            raise RuntimeError(cause)


class _Replicas(NamedTuple):
    """All replicas of a deployment, as one that answers a session sees them; see `reward_fns.engine.lanes.Peers`."""

    handle: Any
    session: str

    def owns(self, text: str) -> bool:
        return session_of(text) == self.session

    def fetch(self, key: Key, build: Build[Any], text: str, timeout: float) -> Any:
        owner = self.handle.options(session_id=session_of(text))
        return owner.remote(key, build, text, timeout).result(timeout_s=timeout)


def _check(request: Mapping[str, Any]) -> None:
    for key in request:
        if key not in _REQUEST:
            raise UsageError(unknown("key of a request", key, _REQUEST))
    for key, hint in _REQUEST.items():
        check_value(f"{key} of a request", request.get(key), hint)
    if not all(isinstance(text, str) for text in request["predictions"] + request["references"]):
        raise UsageError("predictions and references of a request must be lists of texts")
    if len(request["predictions"]) != len(request["references"]):
        raise UsageError("a request must have one reference for each prediction")


def application(args: Mapping[str, Any]) -> Application:
    """The Ray Serve application, for `import_path: reward_fns.engine.serving:application`.

    Its `args` are the entry `engine` of a reward spec with where: ray; UsageError if one is unknown or wrong.
    """
    from ray import serve

    options = from_mapping(EngineOptions, {**args, "where": "ray"}, "scorers", REMOVED)
    growth: dict[str, Any] = {"num_replicas": options.replicas}
    if options.max_replicas > options.replicas:
        # A step's rewards come in a burst, which Ray Serve's own half a minute would let pass.
        scaling = {"metrics_interval_s": 2.0, "look_back_period_s": 6.0, "upscale_delay_s": 6.0}
        scaling |= {"min_replicas": options.replicas, "max_replicas": options.max_replicas}
        scaling["target_ongoing_requests"] = _AT_WORK // 4
        growth = {"num_replicas": None, "autoscaling_config": scaling}
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
    UsageError if Ray Serve is missing, or if the replicas leave the trainer too little, see `refusal`.
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


def check_room(options: EngineOptions, trainer: Sequence[int]) -> None:
    """Raise UsageError if the replicas of a deployment about to start leave a trainer too little, see `refusal`."""
    import ray

    free = ray._private.state.available_resources_per_node()  # which verl's own check asks too
    if trainer and (reason := refusal(list(free.values()), options, trainer)):
        raise UsageError(reason)


def refusal(free: Sequence[Mapping[str, float]], options: EngineOptions, trainer: Sequence[int]) -> str | None:
    """Why replicas, which Ray Serve spreads over the nodes, leave too little for the trainer; None if they don't.

    Replicas without a place wait for a node to join; they are only logged. `free` has the free "GPU" and "CPU" of each
    node, `trainer` the trainer's processes on each of its nodes, which take a whole GPU and 3 CPUs each.

    >>> nodes = [{"GPU": 1.0, "CPU": 16.0}] * 3
    >>> print(refusal(nodes, EngineOptions(where="ray", replicas=3, gpus=0.25), [1, 1]).partition(". ")[0])
    the scorers would leave too little for the trainer: of 3 nodes with 1, 1, 1 free GPUs and 16, 16, 16 free CPUs, \
3 replicas of 0.25 GPUs and 1 CPUs leave 0, 0, 0 whole GPUs and 15, 15, 15 CPUs, but the trainer needs 2 nodes with \
1, 1 GPUs and 3, 3 CPUs
    >>> refusal(nodes, EngineOptions(where="ray", replicas=1, gpus=0.25), [1, 1]) is None
    True
    """
    gpus, cpus = ([node.get(name, 0.0) for node in free] for name in ("GPU", "CPU"))
    placed = [0] * len(free)
    for _ in range(options.replicas):
        more = [(_used(count + 1, options.gpus), (count + 1) * options.cpus) for count in placed]
        room = [i for i, (gpu, cpu) in enumerate(more) if gpu <= gpus[i] and cpu <= cpus[i]]
        if room:
            placed[min(room, key=placed.__getitem__)] += 1
    if waiting := options.replicas - sum(placed):
        _log.warning("%d of %d scorer replicas wait for a node to join", waiting, options.replicas)
    whole = [math.floor(n - _used(count, options.gpus)) for n, count in zip(gpus, placed, strict=True)]
    left = [n - count * options.cpus for n, count in zip(cpus, placed, strict=True)]
    nodes = sorted(range(len(free)), key=whole.__getitem__)
    for processes in sorted(trainer, reverse=True):  # the largest first, each on the node that it fits most tightly
        node = next((i for i in nodes if whole[i] >= processes and left[i] >= TRAINER_CPUS * processes), None)
        if node is None:
            return (
                f"the scorers would leave too little for the trainer: of {len(free)} nodes with {_list(gpus)} free "
                f"GPUs and {_list(cpus)} free CPUs, {sum(placed)} replicas of {options.gpus:g} GPUs and "
                f"{options.cpus:g} CPUs leave {_list(whole)} whole GPUs and {_list(left)} CPUs, but the trainer needs "
                f"{len(trainer)} nodes with {_list(trainer)} GPUs and {_list([TRAINER_CPUS * n for n in trainer])} "
                "CPUs. Set fewer replicas, gpus: 0 or fewer cpus in engine, run the scorers in a cluster of their own "
                "(where: http), or let a node join"
            )
        nodes.remove(node)
    return None


def _used(replicas: int, gpus: float) -> float:  # Ray fills one GPU before the next
    return math.ceil(replicas / math.floor(1 / gpus + 1e-9)) if 0 < gpus <= 1 else replicas * gpus


def _list(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)
