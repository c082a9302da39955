"""Start verl's own trainers with this recipe's configs: check first, run, leave nothing behind.

``grpo`` runs ``python -m verl.trainer.main_ppo`` and ``sft`` runs ``verl.trainer.sft_trainer``, both unmodified, as
child processes. What a run would die of minutes later (a missing file, an unknown reward) is refused here at once.
"""

import argparse
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from recipe.cxr_grpo import cpu
from recipe.cxr_grpo.running import processes
from reward_fns.errors import UsageError
from reward_fns.models.download import download
from reward_fns.models.weights import loaded
from reward_fns.spec import RewardSpec, resolve

CONFIG_MODULE = "recipe.cxr_grpo.config"
TRAINERS = {"grpo": "verl.trainer.main_ppo", "sft": "verl.trainer.sft_trainer"}
MODEL_KEYS = {"grpo": "actor_rollout_ref.model.path", "sft": "model.path"}
MIN_FREE_BYTES = 2 * 1024**3
"""Free disk space that a run asks for: Ray's object store and logs, and two checkpoints of a tiny model."""
TAIL = 25
"""Last lines of a failed run's log that its error shows."""


class RunFailed(Exception):
    """A run started and did not finish; the message says where its log is, and names a scorer that is to blame."""


def compose(config_name: str, overrides: Sequence[str]) -> Any:
    """The resolved Hydra config ``config_name`` of this recipe with ``overrides``, as verl will see it."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_module
    from hydra.errors import HydraException

    try:
        with initialize_config_module(CONFIG_MODULE, version_base=None):
            return hydra_compose(config_name, overrides=list(overrides))
    except HydraException as error:
        raise UsageError(
            f"config {config_name}: {error}. Overrides are Hydra's: key=value, or +key=value to add."
        ) from error


def check(kind: str, config: Any, out: Path) -> None:
    """Refuse what the run ``config`` of ``kind`` (grpo or sft) can't survive.

    Raises:
        UsageError: a parquet or model folder is missing, the reward spec is wrong, the disk is full, or the CPU
            platform can't be loaded.
    """
    check_inputs(config, ("data.train_files", "data.val_files", MODEL_KEYS[kind]))
    if kind == "grpo":
        check_reward(config)
        check_batches(config)
    check_disk(out)
    if cpu.enabled():
        check_platform()


def alone(config: Any) -> contextlib.AbstractContextManager[None]:
    """Keep out of the way of another run's weights.

    verl 0.9.1 workers/rollout/vllm_rollout/vllm_rollout.py:141 sends them to vLLM over a socket in /tmp that is named
    by Ray's job id, which is 01000000 in every Ray that a run starts for itself: of two runs on one machine each may
    get the other's weights, or none and wait for ever.

    Raises:
        UsageError: on entering, if there is another run.
    """
    if config.actor_rollout_ref.rollout.name != "vllm" or not own_ray(config):
        return contextlib.nullcontext()
    why = (
        "another GRPO run is under way on this machine, and verl 0.9.1 would mix up their weights: both go over "
        "/tmp/rl-colocate-zmq-01000000-*.sock. Wait for its end, or run both in one Ray (ray_kwargs.ray_init.address)."
    )
    return processes.sole("cxr-grpo-01000000", why)


def check_inputs(config: Any, keys: Iterable[str]) -> None:
    """Refuse parquet files and a model folder that are not there; ``keys`` are the config's keys to look at."""
    from omegaconf import OmegaConf

    for key in keys:
        value = OmegaConf.select(config, key)
        if key in MODEL_KEYS.values():
            path = Path(str(value)).expanduser()
            # A hub id, "owner/name", is verl's to find.
            local = str(value).startswith((".", "/", "~")) or len(path.parts) != 2 or path.exists()
            if local and not (path / "config.json").is_file():
                raise UsageError(f"{key}: no config.json in {value}. Give a folder in Hugging Face format or a hub id.")
            continue
        for name in [value] if isinstance(value, str) else value or []:
            if not Path(name).is_file():
                raise UsageError(f"{key}: no file {name}. Make it with `python -m data_prep <set> --out DIR`.")


def check_batches(config: Any) -> None:
    """Refuse batch sizes that verl would refuse at its first update, minutes into the run."""
    actor, n = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout.n
    batch, mini, micro = config.data.train_batch_size, actor.ppo_mini_batch_size, actor.ppo_micro_batch_size_per_gpu
    if batch % mini:
        raise UsageError(f"data.train_batch_size={batch} is not a multiple of ppo_mini_batch_size={mini} (prompts)")
    if micro and not actor.use_dynamic_bsz and mini * n % micro:
        raise UsageError(
            f"ppo_mini_batch_size={mini} prompts x rollout.n={n} answers is not a multiple of "
            f"ppo_micro_batch_size_per_gpu={micro} (answers); these are keys of actor_rollout_ref.actor"
        )
    ref = config.actor_rollout_ref.ref
    micro = ref.log_prob_micro_batch_size_per_gpu
    if actor.use_kl_loss and micro and not ref.log_prob_use_dynamic_bsz and batch * n % micro:
        raise UsageError(
            f"data.train_batch_size={batch} prompts x rollout.n={n} answers is not a multiple of "
            f"actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu={micro} (answers)"
        )


def check_reward(config: Any) -> RewardSpec | None:
    """The reward spec of a run, None if its reward is not this package's; fetches the weights that it needs.

    Raises:
        UsageError: the spec has a mistake, weights can't be had, or verl would turn a scorer's failure into a 0.
    """
    function = config.reward.custom_reward_function
    if function.path != "pkg://reward_fns":
        return None
    if config.reward.reward_manager.name == "rate_limited":
        # verl 0.9.1 experimental/reward_loop/reward_manager/limited.py: any exception becomes a score of 0.
        raise UsageError(
            "reward.reward_manager.name=rate_limited makes a scorer's failure a reward of 0 and trains on it: use naive"
        )
    kwargs = function.get("reward_kwargs") or {}
    spec = resolve(spec=kwargs.get("spec"), preset=kwargs.get("preset"))
    # A deployment that is reached over HTTP has its weights where it is.
    if spec.engine.where != "http" and (failures := download([spec])):
        raise UsageError("\n".join(dict.fromkeys(failures)))
    return spec


def record_weights(folder: Path) -> None:
    """Write ``folder/weights.json``: SHA-256 of every weight file that this process has fetched, if there are any."""
    if hashes := loaded():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "weights.json").write_text(json.dumps(hashes, indent=1, sort_keys=True) + "\n")


def check_disk(folder: Path) -> None:
    """Refuse to start where less than :data:`MIN_FREE_BYTES` are free, in ``folder`` or the temporary folder."""
    for place in (folder, Path(os.environ.get("TMPDIR", "/tmp"))):
        existing = next(parent for parent in (place, *place.absolute().parents) if parent.exists())
        free = shutil.disk_usage(existing).free
        if free < MIN_FREE_BYTES:
            raise UsageError(
                f"{existing}: {free / 1e9:.1f} GB free, a run needs {MIN_FREE_BYTES / 1e9:.1f} GB. "
                "Free some space, or choose another disk with --out and TMPDIR."
            )


def check_platform() -> None:
    """Load the CPU platform as verl would, but loudly: verl itself hides a plug-in's import error at debug level."""
    try:
        from verl.plugin.platform import get_platform

        import recipe.cxr_grpo.cpu.plugin  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"the CPU platform can't be loaded: {error}. Install it with pip install 'cxr-grpo[cpu]'."
        ) from error
    if get_platform().device_name != "cpu":
        raise UsageError("verl did not take the CPU platform: set VERL_PLATFORM=cpu before Python starts.")


def vllm_problem() -> str | None:
    """Why vLLM can't be used on this machine, or None. Asked in a child process, since importing it can crash."""
    code = "import recipe.cxr_grpo.cpu.plugin, vllm, vllm.platforms as p; assert p.current_platform.is_cpu()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    if done.returncode == 0:
        return None
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"it ended with status {done.returncode}"


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


def environment() -> dict[str, str]:
    """Environment of a run on this machine: this process's, and what the CPU platform wants."""
    return (_CPU_ENVIRONMENT if cpu.enabled() else {}) | dict(os.environ)


def start(
    kind: str,
    config_name: str,
    overrides: Sequence[str],
    *,
    out: Path,
    watch: Callable[[], None] = lambda: None,
) -> None:
    """Check and run one training; its output goes to ``out/<kind>.log``, its metrics to files :func:`metrics` reads.

    Raises:
        UsageError: what :func:`check` refuses, before anything has started.
        RunFailed: the trainer ended with an error.
    """
    config = compose(config_name, overrides)
    check(kind, config, out)
    out.mkdir(parents=True, exist_ok=True)
    record_weights(out)
    command = [sys.executable, "-m", TRAINERS[kind], f"--config-path=pkg://{CONFIG_MODULE}"]
    command += [f"--config-name={config_name}", *overrides]
    # verl's file logger truncates its file, so every attempt at a run writes one of its own.
    attempt = len(list(out.glob(f"{kind}.metrics.*.jsonl"))) + 1
    env = environment() | {"VERL_FILE_LOGGER_PATH": str(out / f"{kind}.metrics.{attempt}.jsonl")}
    if kind == "grpo":
        command += ray_overrides(config, env)
    else:
        # What torchrun sets, for the single process of a laptop.
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        env |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
        env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    log = out / f"{kind}.log"
    before = log.stat().st_size if log.exists() else 0
    with alone(config) if kind == "grpo" else contextlib.nullcontext():
        status = processes.run(command, log=log, env=env, watch=watch)
    if status:
        with log.open(errors="replace") as file:
            file.seek(before)  # earlier attempts at the run are in the same log
            lines = file.read().splitlines()
        tail = "".join(f"  | {line}\n" for line in lines[-TAIL:])
        raise RunFailed(f"{kind} ended with status {status}; the end of {log}:\n{tail}{blame(lines)}")


def ray_overrides(config: Any, env: Mapping[str, str]) -> list[str]:
    """A private folder for a run's own Ray; for a cluster that it joins, the environment that workers don't inherit.

    Such a cluster has a size of its own, and refuses to be told another.
    """
    given = "ray_kwargs.ray_init"
    if own_ray(config):
        return [f"+{given}._temp_dir={{RAY_TMP}}"]
    names = ["VERL_FILE_LOGGER_PATH", *(("VERL_PLATFORM", *_CPU_ENVIRONMENT) if cpu.enabled() else ())]
    sizes = [f"{given}.{key}=null" for key in ("num_cpus", "num_gpus") if key in config.ray_kwargs.ray_init]
    return sizes + [f"+{given}.runtime_env.env_vars.{name}={json.dumps(env[name])}" for name in names]


def own_ray(config: Any) -> bool:
    """Whether a run starts a Ray for itself."""
    return config.ray_kwargs.ray_init.get("address") == "local"


def blame(lines: Iterable[str]) -> str:
    """What the last failure of a scorer said, from the log of a run in whatever form Ray wrapped it; else nothing.

    >>> blame(["(Worker pid=7) reward_fns.errors.ScorerUnavailable: reward 'green' failed on sample 'p7': time-out"])
    "A scorer failed, last: reward 'green' failed on sample 'p7': time-out"
    """
    said = [line.partition("ScorerUnavailable: ")[2].strip() for line in lines]
    return next((f"A scorer failed, last: {message}" for message in reversed(said) if message), "")


def metrics(out: Path, kind: str) -> dict[int, dict[str, float]]:
    """What verl logged, step -> name -> value, over all attempts at the run; a later attempt's step replaces."""
    steps: dict[int, dict[str, float]] = {}
    paths = out.glob(f"{kind}.metrics.*.jsonl")
    for path in sorted(paths, key=lambda path: int(path.name.split(".")[-2])):
        for line in path.read_text().splitlines():
            with contextlib.suppress(json.JSONDecodeError):  # the last line of a run that was cut off
                row = json.loads(line)
                steps.setdefault(row["step"], {}).update(row["data"])
    return dict(sorted(steps.items()))


def component_means(logged: Mapping[str, float]) -> dict[str, float]:
    """The means of one step's rewards, ``<task>/<reward>`` -> mean, from what :mod:`.trainers` had verl log.

    >>> component_means({"reward/report/gleu/mean": 0.4, "reward/report/gleu/floor_rate": 0.0, "critic/score/mean": 1})
    {'report/gleu': 0.4}
    """
    means = {}
    for key, value in logged.items():
        place, _, statistic = key.rpartition("/")
        if statistic == "mean" and f"{place}/floor_rate" in logged:  # the score and the diagnostics have no floor rate
            means[place.removeprefix("reward/")] = value
    return means


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m recipe.cxr_grpo.launch",
        description="Check and run one of verl's trainers with this recipe's config; nothing is left running after it.",
        epilog="example: python -m recipe.cxr_grpo.launch grpo --out runs/mine data.train_files=/data/train.parquet "
        "data.val_files=/data/val.parquet actor_rollout_ref.model.path=/models/tiny",
    )
    parser.add_argument("kind", choices=sorted(TRAINERS))
    parser.add_argument("--out", type=Path, required=True, help="folder for log, metrics, checkpoints and dumps")
    parser.add_argument("--config-name", help="config of this recipe (quickstart_<kind>)")
    args, overrides = parser.parse_known_args(argv)
    out = args.out.absolute()
    placed = {"trainer.default_local_dir": out / "checkpoints"}
    if args.kind == "grpo":
        placed |= {"trainer.validation_data_dir": out / "validation", "trainer.rollout_data_dir": out / "rollouts"}
    given = {override.split("=")[0].lstrip("+") for override in overrides}
    overrides = [f"{key}={value}" for key, value in placed.items() if key not in given] + overrides
    print(f"{args.kind}: output in {out / f'{args.kind}.log'}", file=sys.stderr)
    shown: set[int] = set()

    def watch() -> None:
        for step, logged in metrics(out, args.kind).items():
            if step not in shown and (means := component_means(logged)):
                shown.add(step)
                print(f"step {step}: " + ", ".join(f"{name} {mean:.3f}" for name, mean in means.items()), flush=True)

    try:
        start(args.kind, args.config_name or f"quickstart_{args.kind}", overrides, out=out, watch=watch)
    except UsageError as error:
        print(f"launch: {error}", file=sys.stderr)
        return 2
    except RunFailed as error:
        print(f"launch: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nlaunch: interrupted, nothing is left running; the same command resumes.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
