"""A verl platform whose only device is the CPU, for which a logical slot "GPU" of Ray stands (``num_gpus=1``)."""

import contextlib
import gc
import types
from typing import Any

import psutil
import torch
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry


def _returning(value: Any) -> Any:
    """A device call that has a fixed answer on a CPU."""
    return staticmethod(lambda *_args, **_kwargs: value)


def _freeze_garbage(*_args: Any, **_kwargs: Any) -> None:
    """Leave objects of the first call out of garbage collection: scanning takes a tenth of a tiny model's SFT step."""
    if not gc.get_freeze_count():
        gc.freeze()


class _CpuModule(types.ModuleType):
    """``torch.cpu`` plus the names that verl expects of ``torch.<device>``; anything else stays an AttributeError."""

    memory_allocated = memory_reserved = max_memory_allocated = max_memory_reserved = _returning(0)
    reset_peak_memory_stats = ipc_collect = set_device = set_per_process_memory_fraction = _returning(None)
    empty_cache = staticmethod(_freeze_garbage)
    get_rng_state = staticmethod(lambda *_: torch.get_rng_state())
    set_rng_state = staticmethod(lambda state, *_: torch.set_rng_state(state))
    is_available, device_count = _returning(True), _returning(1)
    current_device = get_device_name = _returning("cpu")

    @staticmethod
    def mem_get_info(*_: Any) -> tuple[int, int]:
        """Free and total main memory, bytes."""
        memory = psutil.virtual_memory()
        return memory.available, memory.total

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)


class CpuPlatform(PlatformBase):
    """See :class:`verl.plugin.platform.platform_base.PlatformBase` for the meaning of each member."""

    device_name = vendor_name = "cpu"
    device_module = _CpuModule("cpu_device")
    is_available, device_count = _returning(True), _returning(1)
    current_device = _returning("cpu")  # verl gives this to torch, which has no "cpu:<index>" other than 0
    set_device = synchronize = set_allocator_settings = profiler_start = profiler_stop = cudart = _returning(None)
    manual_seed = manual_seed_all = staticmethod(torch.manual_seed)  # type: ignore[assignment]
    empty_cache = staticmethod(_freeze_garbage)
    get_device_capability = _returning((None, None))
    communication_backend_name = _returning("gloo")
    visible_devices_envvar = _returning("CUDA_VISIBLE_DEVICES")
    nvtx_range = _returning(contextlib.nullcontext())
    ray_resource_name, ray_noset_envvars = _returning("GPU"), _returning([])
    is_ipc_supported = _returning(False)


def register() -> None:
    """Make ``VERL_PLATFORM=cpu`` a platform that verl knows."""
    PlatformRegistry.register(platform="cpu")(CpuPlatform)
