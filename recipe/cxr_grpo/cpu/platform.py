"""A verl platform whose one device is the CPU.

verl asks Ray for the resource "GPU"; on this platform that is a logical slot (``ray.init(num_gpus=1)``) that stands
for "the device", so the placement code of verl runs unchanged.
"""

import contextlib
import gc
import types
from collections.abc import Iterator
from typing import Any

import psutil
import torch
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry


def _nothing(*_args: Any, **_kwargs: Any) -> None:
    """A device call that has no meaning on a CPU."""


def _keep_what_is_there(*_args: Any, **_kwargs: Any) -> None:
    """What verl calls beside a full garbage collection, several times a step.

    Looking through all that torch and transformers have loaded takes a tenth of a tiny model's SFT step: what is there
    at the first call is left out of later ones.
    """
    if not gc.get_freeze_count():
        gc.freeze()


def _zero(*_args: Any, **_kwargs: Any) -> int:
    return 0


class _CpuModule(types.ModuleType):
    """``torch.cpu`` plus the names that verl expects of ``torch.<device>``; anything else stays an AttributeError."""

    memory_allocated = memory_reserved = max_memory_allocated = max_memory_reserved = staticmethod(_zero)
    reset_peak_memory_stats = ipc_collect = staticmethod(_nothing)
    empty_cache = staticmethod(_keep_what_is_there)
    set_device = set_per_process_memory_fraction = staticmethod(_nothing)
    get_rng_state = staticmethod(lambda *_: torch.get_rng_state())
    set_rng_state = staticmethod(lambda state, *_: torch.set_rng_state(state))
    is_available = staticmethod(lambda: True)
    device_count = staticmethod(lambda: 1)
    current_device = staticmethod(lambda: "cpu")
    get_device_name = staticmethod(lambda *_: "cpu")

    @staticmethod
    def mem_get_info(*_: Any) -> tuple[int, int]:
        """Free and total main memory, bytes."""
        memory = psutil.virtual_memory()
        return memory.available, memory.total

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)


class CpuPlatform(PlatformBase):
    """See :class:`verl.plugin.platform.platform_base.PlatformBase` for what each member means."""

    device_name = "cpu"
    vendor_name = "cpu"
    device_module = _CpuModule("cpu_device")

    def is_available(self) -> bool:
        return True

    def current_device(self) -> Any:
        return "cpu"  # verl hands this to torch as a device, and torch has no "cpu:<index>" other than 0

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None:
        pass

    def synchronize(self, device_index: int | None = None) -> None:
        pass

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        pass

    def empty_cache(self) -> None:
        _keep_what_is_there()

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    @contextlib.contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        yield

    def profiler_start(self) -> None:
        pass

    def profiler_stop(self) -> None:
        pass

    def ray_resource_name(self) -> str:
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return []

    def is_ipc_supported(self) -> bool:
        return False

    def cudart(self) -> Any:
        return None


def register() -> None:
    """Make ``VERL_PLATFORM=cpu`` a platform that verl knows."""
    PlatformRegistry.register(platform="cpu")(CpuPlatform)
