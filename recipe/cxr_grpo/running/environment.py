"""The machine that a run needs: its environment variables, its Ray, its disk, and the CPU platform."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recipe.cxr_grpo import cpu
from reward_fns.errors import UsageError

MIN_FREE_BYTES = 2 * 1024**3
"""Free disk space that a run needs: Ray's object store and logs, and two checkpoints of a tiny model."""

_CPU_ENVIRONMENT = {
    # A tiny model's matrices are too small to share: on two cores a step of 128 rollouts took 6.6 s with one thread
    # per process and 8 s with two.
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "RAY_DEDUP_LOGS": "0",
    "HYDRA_FULL_ERROR": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # Ray's 15 would let anything else on the machine go first
}


def run_environment() -> dict[str, str]:
    """Environment variables of a run on this machine: this process's, and those of the CPU platform."""
    return (_CPU_ENVIRONMENT if cpu.enabled() else {}) | dict(os.environ)


def own_ray(config: Any) -> bool:
    """Whether a run starts its own Ray."""
    return config.ray_kwargs.ray_init.get("address") == "local"


def ray_overrides(config: Any, env: Mapping[str, str]) -> list[str]:
    """Overrides for a run's Ray: a private folder for its own, environment variables for a cluster that it joins.

    Workers of a cluster do not inherit the driver's environment, and a cluster refuses a size from outside.
    """
    ray_init = "ray_kwargs.ray_init"
    if own_ray(config):
        return [f"+{ray_init}._temp_dir={{RAY_TMP}}"]
    names = ["VERL_FILE_LOGGER_PATH", *(("VERL_PLATFORM", *_CPU_ENVIRONMENT) if cpu.enabled() else ())]
    sizes = [f"{ray_init}.{key}=null" for key in ("num_cpus", "num_gpus") if key in config.ray_kwargs.ray_init]
    return sizes + [f"+{ray_init}.runtime_env.env_vars.{name}={json.dumps(env[name])}" for name in names]


def check_disk(folder: Path) -> None:
    """Refuse to start with less than :data:`MIN_FREE_BYTES` free in ``folder`` or the temporary folder."""
    for path in (folder, Path(os.environ.get("TMPDIR", "/tmp"))):
        existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
        free = shutil.disk_usage(existing).free
        if free < MIN_FREE_BYTES:
            raise UsageError(
                f"{existing}: {free / 1e9:.1f} GB free, a run needs {MIN_FREE_BYTES / 1e9:.1f} GB. "
                "Free some space, or choose another disk with --out and TMPDIR."
            )


def check_platform() -> None:
    """Load the CPU platform as verl does, but report an import error, which verl logs at debug level only."""
    try:
        from verl.plugin.platform import get_platform

        import recipe.cxr_grpo.cpu.plugin  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"the CPU platform can't be loaded: {error}. Install it with pip install 'cxr-grpo[cpu]'."
        ) from error
    if get_platform().device_name != "cpu":
        raise UsageError("verl did not choose the CPU platform: set VERL_PLATFORM=cpu before Python starts.")


def vllm_problem() -> str | None:
    """Why vLLM can't be used on this machine, or None. Tested in a child process, because the import can crash."""
    code = "import recipe.cxr_grpo.cpu.plugin, vllm, vllm.platforms as p; assert p.current_platform.is_cpu()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=run_environment())
    if done.returncode == 0:
        return None
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"it ended with status {done.returncode}"
