"""Scoring a piece of work once, with the time taken: by this process, or by several as verl's reward workers are."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import resource
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from reward_fns.engine import lanes as engine
from reward_fns.engine.remote import APP, leave
from reward_fns.errors import ScorerUnavailable, UsageError
from reward_fns.registry import get
from reward_fns.scoring import Rollout, score_samples
from reward_fns.settings import EngineOptions
from reward_fns.spec import RewardSpec, resolve

Pairs = Sequence[tuple[str, str]]


@dataclass
class Run:
    """What came of scoring the work once.

    Attributes:
        values: of the rollouts.
        seconds: that all of it took.
        late: seconds from each rollout's arrival to its reward.
        match: seconds of CPU that callers spent on what follows the models.
        memory: bytes, at most, of each process that asked.
        served: the same of all replicas together, 0 without a deployment.
        counts, steps: of the lanes, all models together; of all replicas, if there are any.
    """

    values: list[float]
    seconds: float
    late: list[float]
    match: float
    memory: list[int]
    served: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    steps: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Trial:
    """How the work is to be scored.

    Attributes:
        reward: its name.
        place: options of rewards that name models.
        engine: options of it.
        concurrency: rollouts that are asked for at once, over all workers.
        stream: seconds over which the rollouts arrive, 0 for all at once.
        workers: processes that ask for their share, as Ray actors; 0 for this process.
    """

    reward: str
    place: Mapping[str, str]
    engine: EngineOptions
    concurrency: int
    stream: float = 0.0
    workers: int = 0

    def run(self, pairs: Pairs) -> Run:
        """Score the work, once the models are loaded.

        Raises:
            UsageError: a rollout could not be scored, or Ray is missing.
        """
        with _cluster(self):
            found = self._alone(pairs) if self.workers == 0 else self._together(pairs)
            if self.engine.where == "ray":
                found.counts, found.steps, found.served = of_all_replicas(self.engine.replicas)
        return found

    def _alone(self, pairs: Pairs) -> Run:
        worker = Worker(self)
        worker.warm()
        return worker.score(list(pairs))

    def _together(self, pairs: Pairs) -> Run:
        import ray

        actors: list[Any] = [ray.remote(Worker).remote(self) for _ in range(self.workers)]
        ray.get([actor.warm.remote() for actor in actors])
        start = time.perf_counter()
        runs = ray.get([actor.score.remote(pairs[i :: self.workers]) for i, actor in enumerate(actors)])
        whole = Run([0.0] * len(pairs), time.perf_counter() - start, [], 0.0, [])
        for i, run in enumerate(runs):
            whole.values[i :: self.workers] = run.values
            whole.late += run.late
            whole.match += run.match
            whole.memory += run.memory
            whole.counts.update(run.counts)
            whole.steps.update(run.steps)
        return whole


def peak_memory() -> int:
    """The most main memory that this process has used so far, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


class Worker:
    """A process that asks for rewards, each rollout alone, as verl does."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        own = {key: value for key, value in trial.place.items() if key in get(trial.reward).options}
        if trial.reward == "bertscore":
            own = {"model": "distilroberta-base", "repo": trial.place["bert"]}
        if trial.reward == "radgraph_combined":
            own["model"] = "radgraph-xl"
        each = max(1, trial.concurrency // max(1, trial.workers))
        failures = {"timeout": 3600, "retries": 0, "concurrency": each}
        self.spec = replace(
            resolve({"report": [{"name": trial.reward, "options": own}], "failures": failures}), engine=trial.engine
        )

    def warm(self) -> None:
        """Load the models."""
        asyncio.run(_score(self.spec, [("no effusion is seen", "the lungs are clear")], 0.0))
        for lane in engine.lanes().values():
            lane.forget()

    def score(self, pairs: Pairs) -> Run:
        """Score the worker's share."""
        return asyncio.run(_score(self.spec, pairs, self.trial.stream))


async def _score(given: RewardSpec, pairs: Pairs, stream: float) -> Run:
    spec, spent = _timed(given)
    late = [0.0] * len(pairs)

    async def one(i: int) -> float:
        await asyncio.sleep(stream * i / len(pairs))
        arrived = time.perf_counter()
        prediction, reference = pairs[i]
        sample = Rollout("bench/report", prediction, {"report": reference}, {"id": str(i)})
        (result,) = await score_samples([sample], spec)
        if not isinstance(result, dict):
            raise result
        late[i] = time.perf_counter() - arrived
        return result["score"]

    start = time.perf_counter()
    try:
        values = await asyncio.gather(*map(one, range(len(pairs))))
    except ScorerUnavailable as error:
        raise UsageError(f"the benchmark can't go on: {error}") from error
    found = Run(list(values), time.perf_counter() - start, late, spent[0], [peak_memory()])
    found.counts, found.steps = engine.totals(spec.engine)
    return found


def _timed(spec: RewardSpec) -> tuple[RewardSpec, list[float]]:
    """A spec whose reward adds up the CPU time of what is called here, and the sum."""
    (component,) = spec.tasks["report"]
    spent, lock = [0.0], threading.Lock()
    if spec.engine.where != "inline":
        return spec, spent

    def timed(*arguments: Any, **keywords: Any) -> Any:
        start = time.thread_time()
        try:
            return component.reward.function(*arguments, **keywords)
        finally:
            with lock:
                spent[0] += time.thread_time() - start

    timed_component = replace(component, reward=replace(component.reward, function=timed))
    return replace(spec, tasks={"report": (timed_component,)}), spent


def of_all_replicas(replicas: int) -> tuple[Counter[str], Counter[str], int]:
    """What the lanes of all replicas counted, the seconds they spent, and the replicas' memory, added up."""
    from ray import serve

    handle = serve.get_app_handle(APP).usage
    found: dict[str, Any] = {}
    try:
        for i in range(1000):  # each session belongs to some replica: ask until all of them have answered
            replica, *usage = handle.options(session_id=str(i)).remote().result(timeout_s=60)
            found[replica] = usage
            if len(found) == replicas:
                break
    finally:
        handle.shutdown()
    counts: Counter[str] = Counter()
    steps: Counter[str] = Counter()
    for of_counts, of_steps, _ in found.values():
        counts.update(of_counts)
        steps.update(of_steps)
    return counts, steps, sum(memory << 10 for *_, memory in found.values())


@contextlib.contextmanager
def _cluster(trial: Trial) -> Iterator[None]:
    """A cluster of this process's own if one is needed, with the deployment in it if that is asked for."""
    if trial.engine.where != "ray" and not trial.workers:
        yield
        return
    try:
        import ray
    except ImportError as error:
        raise UsageError("where=ray and --workers need Ray: pip install 'cxr-grpo[serve]'") from error
    from reward_fns.engine import serving

    served = trial.engine.where == "ray"
    replicas = max(trial.engine.replicas, trial.engine.max_replicas)
    slots = trial.workers + (math.ceil(replicas * trial.engine.cpus) + 1 if served else 0)
    slots = max(slots, os.cpu_count() or 1)
    with tempfile.TemporaryDirectory(prefix="cxr", ignore_cleanup_errors=True) as folder:
        ray.init(
            address="local", log_to_driver=False, include_dashboard=False, num_cpus=slots, _temp_dir=folder,
            runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}},
        )  # fmt: skip
        try:
            if served:
                serving.start(trial.engine)
            yield
        finally:
            leave()
            if served:
                from ray import serve

                serve.shutdown()  # else this process asks this cluster's controller in the next cluster, too
            ray.shutdown()
