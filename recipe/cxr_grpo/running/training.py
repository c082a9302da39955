"""Run one of verl's trainers, unmodified, as a child process, and the exit status of a command that does."""

import contextlib
import os
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_prep.problems import RefusedData
from recipe.cxr_grpo.plugin.reward import record_weights
from recipe.cxr_grpo.records import checkpoints, early_stop, heartbeat
from recipe.cxr_grpo.results.metrics import read_metrics
from recipe.cxr_grpo.running import locks, processes, sft_steps
from recipe.cxr_grpo.running.checks import (
    check_disk,
    check_run,
    compose,
    own_ray,
    ray_overrides,
    run_environment,
)
from recipe.cxr_grpo.running.failures import RunFailed, explain
from recipe.cxr_grpo.running.start import first_node, own_file, trainer_command
from reward_fns.errors import UsageError

# Minutes until the first sign of life. Trainer and vLLM each read the 60 GB of a model of 30 billion parameters: 20
# minutes at 100 MB/s.
STARTUP_LIMIT = 30


class StoppedEarly(Exception):
    """A run that saved and stopped before its last step, because its time limit was near or it was asked to."""


def exit_status(command: str, work: Callable[[], int | None]) -> int:
    """The exit status of ``work``: its own or 0, 1 if it fails, 2 for wrong use, 75 stopped early, 130 for Ctrl-C."""
    try:
        return work() or 0
    except KeyboardInterrupt:
        print(f"\n{command}: interrupted, no process is left running; the same command resumes.", file=sys.stderr)
        return 130
    except StoppedEarly as stop:
        print(f"{command}: {stop}; the same command goes on", file=sys.stderr)
        return os.EX_TEMPFAIL
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
    kind: str,
    config_name: str,
    overrides: Sequence[str],
    *,
    out: Path,
    watch: Callable[[], None] = lambda: None,
    restarts: int = 0,
    startup_limit: int = STARTUP_LIMIT,
) -> None:
    """Check and run one training with log and metrics in ``out``; RunFailed if the trainer ends with an error.

    StoppedEarly if our trainer saved and stopped: before the time limit of a Slurm job, or because of SIGUSR1.
    It goes on from its newest sound checkpoint, and does so again after a failure, at most ``restarts`` times; not if
    two attempts in a row fail for the same cause and the second made no new step. A trainer of ours that gives no
    heartbeat within ``startup_limit`` minutes, or later for longer than it said itself, has failed.
    """
    config = compose(config_name, overrides)
    folder = Path(config.trainer.default_local_dir).absolute()
    if restarts and config.trainer.resume_mode != "auto":
        raise UsageError("restarts go on from the newest checkpoint, which needs trainer.resume_mode=auto")
    check_run(kind, config, out)
    command = trainer_command(kind, config, [f"--config-name={config_name}", *overrides])
    for path in (out, folder):
        path.mkdir(parents=True, exist_ok=True)
    record_weights(out)
    refusal = f"another run is at work in {folder}. Wait for its end, or choose another folder with --out."
    machine = weights_lock(config) if kind == "grpo" else contextlib.nullcontext()
    on_request = processes.signals(lambda *_: _stop(kind, config, folder), signal.SIGUSR1)
    with locks.lock(folder / own_file(kind, "run.lock"), refusal) as own, machine as shared, on_request:
        held = [descriptor for descriptor in (own, shared) if descriptor is not None]
        (folder / early_stop.REQUEST).unlink(missing_ok=True)
        _first_step(kind, config, folder)
        if kind == "sft" and config.trainer.resume_mode == "auto" and sft_steps.complete(config, folder):
            return None  # verl would train a step more
        before = None
        for number in range(1, restarts + 2):
            watches = (_heartbeat(kind, config, folder, startup_limit), watch)
            try:
                return _attempt(kind, config, command, out, watches, held)
            except RunFailed as error:
                failure = error
            if number > restarts:
                raise failure
            end = max(read_metrics(out, kind), default=0), re.sub(r"0x[0-9a-f]+|\d+", "", failure.cause)
            if end == before:
                raise failure.with_note("It is not restarted again: twice the same cause without a new step.")
            before = end
            try:
                check_disk(out)
                step = _first_step(kind, config, folder)
            except UsageError as error:
                raise failure.with_note(f"It can't be restarted: {error}") from error
            print(f"restart {number} of {restarts} from step {step}: {failure.cause}", file=sys.stderr, flush=True)


def _first_step(kind: str, config: Any, folder: Path) -> int | None:
    """The step that verl will go on from, once its checkpoints are checked; None if the config decides it otherwise."""
    trainer = config.trainer
    if trainer.resume_mode == "disable" or not first_node(kind):
        return None
    if trainer.resume_mode == "resume_path" or (kind == "sft" and trainer.resume_from_path is not None):
        step, checkpoint = None, Path(str(trainer.resume_from_path)).absolute()
        checkpoints.check_path(checkpoint)
    else:
        keep = trainer.max_actor_ckpt_to_keep if kind == "grpo" else trainer.max_ckpt_to_keep
        step = checkpoints.choose(folder, keep)
        checkpoint = folder / f"global_step_{step}"
    if kind == "sft":
        sft_steps.begin_epoch(config, checkpoint)
    return step


def _ours(kind: str, config: Any) -> bool:
    return bool(kind == "grpo" and config.trainer.use_v1 and config.trainer.v1.trainer_mode.startswith("cxr_"))


def _stop(kind: str, config: Any, folder: Path) -> None:
    if ours := _ours(kind, config):
        (folder / early_stop.REQUEST).touch()
    what = "saved and stopped after this step" if ours else "not stopped: verl's own trainers can't be"
    print(f"SIGUSR1: the run is {what}", file=sys.stderr, flush=True)


def _heartbeat(kind: str, config: Any, folder: Path, startup_limit: int) -> Callable[[], None]:
    if not _ours(kind, config):
        return lambda: None  # verl's own trainers write none
    # The trainer of a cluster that the run joins may write where this machine sees nothing.
    return heartbeat.watch(folder, startup_limit * 60 if own_ray(config) else None)


def _attempt(
    kind: str,
    config: Any,
    command: Sequence[str],
    out: Path,
    watches: Sequence[Callable[[], None]],
    held: Sequence[int],
) -> None:
    """Run ``command`` once; RunFailed if it ends with an error or one of ``watches`` raises Silent; StoppedEarly.

    UsageError if verl ends before the last step without an error, for want of data.
    """
    folder = Path(config.trainer.default_local_dir)
    early_stop.take_note(folder)  # of an attempt that saved and then failed
    # verl's file logger truncates its file, so every attempt at a run writes its own.
    attempt = len(list(out.glob(f"{kind}.metrics.*.jsonl"))) + 1
    env = run_environment() | {"VERL_FILE_LOGGER_PATH": str(out / f"{kind}.metrics.{attempt}.jsonl")}
    if kind == "grpo":
        command = [*command, *ray_overrides(config, env)]
    log = out / own_file(kind, f"{kind}.log")
    start = log.stat().st_size if log.exists() else 0  # earlier attempts at the run are in the same log

    def look() -> None:
        for watch in watches:
            watch()

    try:
        status = processes.run(command, log=log, env=env, watch=look, held=held)
        problem = f"{kind} ended with status {status}" if status else None
    except heartbeat.Silent as silent:
        problem = f"{kind}: {silent}"
    if problem:
        raise explain(problem, log, start, (out, folder, Path(tempfile.gettempdir())))
    if stopped := early_stop.take_note(folder):
        raise StoppedEarly(stopped)
    if kind == "sft" and first_node(kind) and sft_steps.complete(config, folder) is False:
        raise RunFailed(f"sft ended with status 0, but without its last step: see the newest checkpoint in {folder}")
    if kind == "grpo" and (planned := config.trainer.total_training_steps) and not config.trainer.val_only:
        last = max(read_metrics(out, kind), default=planned)
        if max(last, checkpoints.newest(folder)) < planned:
            raise UsageError(
                f"grpo ended after step {last} of trainer.total_training_steps={planned}, because the data has no more "
                "rows. Raise trainer.total_epochs, or lower trainer.total_training_steps"
            )


def weights_lock(config: Any) -> contextlib.AbstractContextManager[int | None]:
    """A lock that keeps two runs on one machine from mixing up their weights: the second gets UsageError.

    verl 0.9.1 workers/rollout/vllm_rollout/vllm_rollout.py:141 sends weights to vLLM over a socket in /tmp that is
    named by Ray's job id, which is 01000000 in every Ray that a run starts for itself.
    """
    if config.actor_rollout_ref.rollout.name != "vllm" or not own_ray(config):
        return contextlib.nullcontext()
    return vllm_lock(
        "another run is under way on this machine, and verl 0.9.1 would mix up the weights of two: both use "
        "/tmp/rl-colocate-zmq-01000000-*.sock. Wait for its end, or run both in one Ray (ray_kwargs.ray_init.address)."
    )


def vllm_lock(refusal: str) -> contextlib.AbstractContextManager[int | None]:
    """The lock of those who start a vLLM of their own on this machine; UsageError with ``refusal`` if it is held."""
    return locks.lock(Path("/tmp/cxr-grpo-01000000.lock"), refusal)  # not TMPDIR, which differs between users
