"""Where the models of a process run, and what must be installed for them."""

import contextlib
import functools
import logging
import os
import sys
from collections.abc import Iterator

from reward_fns.errors import UsageError
from reward_fns.settings import EngineOptions

_EXTRA = ("torch", "transformers", "huggingface_hub")
_log = logging.getLogger(__name__)


def device_of(options: EngineOptions) -> str:
    """The device that the models of this process run on, as PyTorch names it; UsageError if it is not available.

    `device: auto` is the CPU without a GPU; in a Ray actor the first GPU that Ray assigned to it, or the CPU; under
    torchrun the GPU of LOCAL_RANK; else the first GPU.
    """
    import torch

    if options.device == "auto":
        return _own_gpu(torch.cuda.device_count()) if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=options.device)
    except (RuntimeError, AssertionError) as error:
        why = str(error).partition("\n")[0]
        raise UsageError(f"engine: device {options.device} is not available: {why}") from error
    return options.device


def _own_gpu(count: int) -> str:
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized() or ray.get_runtime_context().get_actor_id() is None:
        return f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % count}"
    assigned = ray.get_runtime_context().get_accelerator_ids().get("GPU", [])
    if not assigned:  # since Ray 2.60 such an actor sees all GPUs, and would load its models on the trainer's first
        _warn_of_cpu(count)
        return "cpu"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return f"cuda:{visible.index(assigned[0]) if assigned[0] in visible else int(assigned[0])}"


@functools.cache
def _warn_of_cpu(count: int) -> None:
    _log.warning(
        "engine: device auto runs the reward models of this worker on the CPU: the node has %d GPUs, but Ray assigned "
        "none to this worker. For GPUs set engine: {where: ray, gpus: 0.25} in the reward spec, or name a device, "
        "such as engine: {device: 'cuda:1'}, that the trainer leaves memory on",
        count,
    )


@contextlib.contextmanager
def scorer_packages() -> Iterator[None]:
    """Turn the failed import of a package that neural rewards need into a UsageError that says how to install it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        what = f"{error.name} is not installed, but neural rewards need it"
        raise UsageError(f"{what}: pip install 'cxr-grpo[scorers]'") from error
