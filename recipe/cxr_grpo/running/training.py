"""Run one of verl's trainers, unmodified, as a child process, and the exit status of a command that does."""

import contextlib
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_prep.problems import RefusedData
from recipe.cxr_grpo.plugin.reward import record_weights
from recipe.cxr_grpo.results.metrics import read_metrics
from recipe.cxr_grpo.running import processes
from recipe.cxr_grpo.running.checks import CONFIG_MODULE, check_run, compose, own_ray, ray_overrides, run_environment
from reward_fns.errors import UsageError

TRAINERS = {"grpo": "verl.trainer.main_ppo", "sft": "verl.trainer.sft_trainer"}
SHOWN_LINES = 25  # the last ones of a failed run's log


class RunFailed(Exception):
    """A run started and did not finish; the message shows the end of its log and names a scorer that failed."""


def exit_status(command: str, work: Callable[[], int | None]) -> int:
    """The exit status of ``work``: its own or 0, 1 if it fails, 2 for wrong use, 130 if it is interrupted."""
    try:
        return work() or 0
    except KeyboardInterrupt:
        print(f"\n{command}: interrupted, no process is left running; the same command resumes.", file=sys.stderr)
        return 130
    except (UsageError, RunFailed, RefusedData, ValueError, OSError) as error:
        advice = "\nThe same command resumes." if isinstance(error, RunFailed) else ""
        print(f"{command}: {error}{advice}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1


@contextlib.contextmanager
def progress(kind: str, steps: int, metric: str) -> Iterator[Callable[[Path], None]]:
    """A bar of a training's steps; yields what moves it, from the metrics in the folder of the run."""
    with tqdm(total=steps, desc=kind, unit="step", disable=not sys.stderr.isatty()) as bar:

        def move(out: Path) -> None:
            logged = read_metrics(out, kind)
            if logged and max(logged) > bar.n:
                bar.n = max(logged)
                value = logged[bar.n].get(metric)
                bar.set_postfix({} if value is None else {metric.split("/")[-2]: f"{value:.3f}"})

        yield move


def run_training(
    kind: str, config_name: str, overrides: Sequence[str], *, out: Path, watch: Callable[[], None] = lambda: None
) -> None:
    """Check and run one training with log and metrics in ``out``; RunFailed if the trainer ends with an error."""
    config = compose(config_name, overrides)
    check_run(kind, config, out)
    out.mkdir(parents=True, exist_ok=True)
    record_weights(out)
    command = [sys.executable, "-m", TRAINERS[kind], f"--config-path=pkg://{CONFIG_MODULE}"]
    command += [f"--config-name={config_name}", *overrides]
    # verl's file logger truncates its file, so every attempt at a run writes its own.
    attempt = len(list(out.glob(f"{kind}.metrics.*.jsonl"))) + 1
    env = run_environment() | {"VERL_FILE_LOGGER_PATH": str(out / f"{kind}.metrics.{attempt}.jsonl")}
    if kind == "grpo":
        command += ray_overrides(config, env)
    else:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        # What torchrun sets, for the single process of a laptop.
        env |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
        env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    log = out / f"{kind}.log"
    start = log.stat().st_size if log.exists() else 0
    with weights_lock(config) if kind == "grpo" else contextlib.nullcontext():
        status = processes.run(command, log=log, env=env, watch=watch)
    if status:
        with log.open(errors="replace") as file:
            file.seek(start)  # earlier attempts at the run are in the same log
            lines = file.read().splitlines()
        tail = "".join(f"  | {line}\n" for line in lines[-SHOWN_LINES:])
        # In whatever form Ray wrapped it.
        failures = [line.partition("ScorerUnavailable: ")[2].strip() for line in lines]
        cause = next((f"The last scorer failure: {failure}" for failure in reversed(failures) if failure), "")
        raise RunFailed(f"{kind} ended with status {status}; the end of {log}:\n{tail}{cause}")


def weights_lock(config: Any) -> contextlib.AbstractContextManager[None]:
    """A lock that keeps two runs on one machine from mixing up their weights: the second gets UsageError.

    verl 0.9.1 workers/rollout/vllm_rollout/vllm_rollout.py:141 sends weights to vLLM over a socket in /tmp that is
    named by Ray's job id, which is 01000000 in every Ray that a run starts for itself.
    """
    if config.actor_rollout_ref.rollout.name != "vllm" or not own_ray(config):
        return contextlib.nullcontext()
    refusal = (
        "another GRPO run is under way on this machine, and verl 0.9.1 would mix up their weights: both use "
        "/tmp/rl-colocate-zmq-01000000-*.sock. Wait for its end, or run both in one Ray (ray_kwargs.ray_init.address)."
    )
    return processes.machine_lock("cxr-grpo-01000000", refusal)
