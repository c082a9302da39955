"""What a run needs, checked before anything starts: its config, environment, Ray, disk and platform."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from recipe.cxr_grpo import cpu
from recipe.cxr_grpo.plugin.reward import check_reward
from recipe.cxr_grpo.plugin.trial import parquet_files, row_of_each_task
from recipe.cxr_grpo.records import early_stop
from recipe.cxr_grpo.running.config_checks import check_config
from recipe.cxr_grpo.running.sft_steps import planned
from recipe.cxr_grpo.running.start import CONFIG_MODULE
from reward_fns.errors import UsageError
from reward_fns.scoring import Rollout
from reward_fns.spec import RewardSpec

MODEL_KEYS = {"grpo": "actor_rollout_ref.model.path", "sft": "model.path"}

ADAPTER = "lora_adapter"  # of verl's merger, beside the weights to which it has not added it

MIN_FREE_BYTES = 2 * 1024**3  # on the disk: Ray's object store and logs, and two checkpoints of a tiny model

_CPU_ENVIRONMENT: dict[str, str] = yaml.safe_load((resources.files(__package__) / "cpu_environment.yaml").read_text())


def compose(config_name: str, overrides: Sequence[str]) -> Any:
    """The Hydra config ``config_name`` of this recipe with ``overrides``; UsageError if Hydra refuses one of them."""
    import hydra

    try:
        with hydra.initialize_config_module(CONFIG_MODULE, version_base=None):
            return hydra.compose(config_name, overrides=list(overrides))
    except hydra.errors.HydraException as error:
        raise UsageError(
            f"config {config_name}: {error}. Overrides are Hydra's: key=value, or +key=value to add a key."
        ) from error


def check_run(kind: str, config: Any, out: Path) -> None:
    """Raise UsageError for a run of ``kind`` (grpo or sft) that would fail minutes after its start."""
    for _, check in run_checks(kind, config, out):
        check()


def run_checks(kind: str, config: Any, out: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What :func:`check_run` looks at, by name: each raises UsageError if it is not as a run needs it."""
    for key in ("data.train_files", "data.val_files", MODEL_KEYS[kind]):
        yield key, partial(check_inputs, config, (key,))
    yield "config", partial(check_config, kind, config)
    yield "platform", partial(check_device, config)
    if kind == "sft":
        yield "steps", partial(planned, config)
    if kind == "grpo":
        yield "reward spec", partial(gold_rows, config)
    yield "free disk", partial(check_disk, out)
    if cpu.enabled():
        yield "CPU platform", check_platform


def gold_rows(config: Any) -> tuple[RewardSpec | None, list[Rollout]]:
    """A run's reward spec and a row of each task in its data; UsageError for mistakes in them."""
    spec = check_reward(config)
    return spec, row_of_each_task(parquet_files(config), spec) if spec else []


def check_inputs(config: Any, keys: Iterable[str]) -> None:
    """Raise UsageError for a missing parquet file or model folder that one of the config's ``keys`` names."""
    from omegaconf import OmegaConf

    for key in keys:
        value = OmegaConf.select(config, key)
        if key in MODEL_KEYS.values():
            path = Path(str(value)).expanduser()
            # verl resolves a hub id, "owner/name".
            local = str(value).startswith((".", "/", "~")) or len(path.parts) != 2 or path.exists()
            if local and not (path / "config.json").is_file():
                raise UsageError(f"{key}: no config.json in {value}. Give a folder in Hugging Face format or a hub id.")
            unmerged = (path.parent / "fsdp_config.json").is_file() and not any(path.glob("*.safetensors"))
            if unmerged or (path / ADAPTER).is_dir():
                where = "in the shards around it" if unmerged else f"in {ADAPTER}/, and beside it is the bare base"
                remedy = "Give the run's folder model/, or make it: python -m recipe.cxr_grpo.merge CHECKPOINT FOLDER"
                raise UsageError(f"{key}: {value} is not a model: what was trained is {where}. {remedy}")
            continue
        for name in [value] if isinstance(value, str) else value or []:
            if not Path(name).is_file():
                raise UsageError(f"{key}: no file {name}; {key}=FILE names one that data_prep made.")


def check_device(config: Any) -> None:
    """Raise UsageError if the config and VERL_PLATFORM, which verl reads, name different platforms."""
    device = config.trainer.device
    if cpu.enabled() and device != "cpu":
        raise UsageError(f"trainer.device={device}, but VERL_PLATFORM=cpu is set: unset it, or choose profile=cpu")
    if device == "cpu" and not cpu.enabled():
        raise UsageError("trainer.device=cpu: set VERL_PLATFORM=cpu before Python starts, or choose another profile")


def run_environment() -> dict[str, str]:
    """Environment variables of a run on this machine: this process's, and those of the CPU platform."""
    return (_CPU_ENVIRONMENT if cpu.enabled() else {}) | dict(os.environ)


def own_ray(config: Any) -> bool:
    """Whether a run starts its own Ray."""
    return config.ray_kwargs.ray_init.get("address") == "local"


def ray_overrides(config: Any, env: Mapping[str, str]) -> list[str]:
    """Overrides for a run's own Ray (a private folder) or a cluster (its workers inherit no environment, no size)."""
    ray_init = "ray_kwargs.ray_init"
    if own_ray(config):
        return [f"+{ray_init}._temp_dir={{RAY_TMP}}"]
    names = ["VERL_FILE_LOGGER_PATH", *(("VERL_PLATFORM", *_CPU_ENVIRONMENT) if cpu.enabled() else ())]
    names += [early_stop.JOB_END] if early_stop.JOB_END in env else []
    sizes = [f"{ray_init}.{key}=null" for key in ("num_cpus", "num_gpus") if key in config.ray_kwargs.ray_init]
    return sizes + [f"+{ray_init}.runtime_env.env_vars.{name}={json.dumps(env[name])}" for name in names]


def check_disk(folder: Path) -> None:
    """Raise UsageError with less than :data:`MIN_FREE_BYTES` free in ``folder`` or the temporary folder."""
    for path in (folder, Path(os.environ.get("TMPDIR", "/tmp"))):
        existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
        free = shutil.disk_usage(existing).free
        if free < MIN_FREE_BYTES:
            raise UsageError(
                f"{existing}: {free / 1e9:.1f} GB free, a run needs {MIN_FREE_BYTES / 1e9:.1f} GB. "
                "Free some space, or choose another disk with --out and TMPDIR."
            )


def check_platform() -> None:
    """Load the CPU platform as verl does, but raise UsageError where verl only logs an import error for debugging."""
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
    return (done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"])[-1]
