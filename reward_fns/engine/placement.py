"""Whether scorers and a trainer both have room in a Ray cluster; verl waits silently for what it can't get."""

import logging
import math
from collections.abc import Mapping, Sequence

from reward_fns.errors import UsageError
from reward_fns.settings import EngineOptions

TRAINER_CPUS = 3
"""CPUs that verl 0.9.1 reserves with the whole GPU of each training process (RayResourcePool.max_colocate_count)."""
_log = logging.getLogger(__name__)


def check_room(options: EngineOptions, trainer: Sequence[int]) -> None:
    """Check that the replicas of a deployment that is about to start leave a trainer what it needs.

    Raises:
        UsageError: they do not; see `refusal`.
    """
    import ray

    free = ray._private.state.available_resources_per_node()  # which verl's own check asks too
    if trainer and (reason := refusal(list(free.values()), options, trainer)):
        raise UsageError(reason)


def refusal(free: Sequence[Mapping[str, float]], options: EngineOptions, trainer: Sequence[int]) -> str | None:
    """Why replicas, which Ray Serve spreads over the nodes, leave too little for the trainer; None if they don't.

    Replicas without a place wait for a node to join; they are only logged.

    Args:
        free: per node, the free "GPU" and "CPU" resources.
        options: of the engine, with where: ray.
        trainer: for each node that the trainer uses, its processes there, each on a whole GPU and 3 CPUs.

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
        room = [i for i, count in enumerate(placed)
                if _used(count + 1, options.gpus) <= gpus[i] and (count + 1) * options.cpus <= cpus[i]]  # fmt: skip
        if not room:
            break
        placed[min(room, key=placed.__getitem__)] += 1
    if sum(placed) < options.replicas:
        _log.warning(
            "%d of %d scorer replicas wait for a node to join", options.replicas - sum(placed), options.replicas
        )
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


def _used(replicas: int, gpus: float) -> float:
    """GPUs of which replicas on a node use at least a part; Ray fills one GPU before the next."""
    return math.ceil(replicas / math.floor(1 / gpus + 1e-9)) if 0 < gpus <= 1 else replicas * gpus


def _list(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)
