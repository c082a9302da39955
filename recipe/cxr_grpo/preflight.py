"""Look at machine, model, data, rewards and config of a run before it is queued, on a login node or a compute node."""

import argparse
import contextlib
import os
import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Callable
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from data_prep.options import folder
from recipe.cxr_grpo.plugin.trial import parquet_files
from recipe.cxr_grpo.readiness import inputs, machine, memory
from recipe.cxr_grpo.readiness.machine import Result
from recipe.cxr_grpo.running.checks import MODEL_KEYS, compose, run_checks
from recipe.cxr_grpo.running.start import TRAINERS
from recipe.cxr_grpo.running.training import exit_status
from reward_fns.errors import UsageError

ADVICE: dict[str, str] = yaml.safe_load((resources.files("recipe.cxr_grpo.readiness") / "advice.yaml").read_text())


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m recipe.cxr_grpo.preflight",
        description=f"{__doc__} Takes launch's arguments. Exit status 0: nothing failed, 1: something did, 2: misuse.",
        epilog="example: python -m recipe.cxr_grpo.preflight grpo --config-name grpo profile=node_8x80g "
        "data.train_files=/data/train.parquet actor_rollout_ref.model.path=Qwen/Qwen3-VL-8B-Instruct",
    )
    parser.add_argument("kind", choices=sorted(TRAINERS), help="the trainer")
    parser.add_argument("--out", type=folder, default=Path(), help="folder of the run, whose disk is looked at")
    parser.add_argument("--config-name", help="config of this recipe (quickstart_<kind>)")
    parser.add_argument("--download", action="store_true", help="fetch missing weights, of the model and of rewards")
    for flag in ("--restarts", "--startup-limit"):
        parser.add_argument(flag, help=argparse.SUPPRESS)  # launch's, which change nothing here
    parser.add_argument("--no-merge", action="store_true", help=argparse.SUPPRESS)
    args, overrides = parser.parse_known_args(argv)
    if not args.download:
        os.environ["HF_HUB_OFFLINE"] = "1"  # before the hub's client is imported
    return exit_status("preflight", lambda: preflight(args, overrides))


def preflight(args: argparse.Namespace, overrides: list[str]) -> int:
    """Print what each check finds; returns 1 if one failed. UsageError if the config can't be composed."""
    kind, out = args.kind, args.out.absolute()
    given = [f"trainer.default_local_dir={out / 'checkpoints'}", *overrides]
    config, counts = compose(args.config_name or f"quickstart_{kind}", given), Counter[str]()
    row, here = partial(show, counts), machine.this_machine(on_host=config.trainer.device == "cpu")
    settings = OmegaConf.select(config, MODEL_KEYS[kind].removesuffix(".path"))
    if on_gpus := config.trainer.device != "cpu":
        row("glibc", machine.check_glibc)
        row("flash-attn", machine.check_flash_attn, settings)
        row("driver", machine.check_driver, here)
        row("GPUs", machine.check_gpus, here, config.trainer.n_gpus_per_node)
    if kind == "grpo":
        row("CPUs", machine.check_cpus, config, here)
    found = {name: row(name, check) for name, check in run_checks(kind, config, out)}
    train, val = (parquet_files(OmegaConf.merge(config, {"data": {f"{name}_files": []}})) for name in ("val", "train"))
    if files := [*train, *val]:
        row("rows and films", inputs.check_data, kind, files)
    model = found[MODEL_KEYS[kind]] and row("model", inputs.model_folder, settings.path, args.download)
    _ = model and row("weights", inputs.check_weights, model, settings.path)
    if budget := model and row("parameters", memory.Budget, kind, config, model, settings):
        if on_gpus:
            profile = dict(word.partition("=")[::2] for word in overrides).get("profile", "paper_32xgh200")
            gpu = min(here.gpus) if here and here.gpus else memory.PROFILES.get(profile, 80.0)
            row("GPU memory in updates", budget.updates, gpu)
            _ = kind == "grpo" and row("GPU memory in rollouts", budget.rollouts, gpu)
        if kind == "grpo":
            row("memory of a node", budget.host, train, val, here and here.memory)
        folder = Path(config.trainer.default_local_dir).absolute()
        disk = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists()))
        row("disk", budget.disk, disk.free / 2**30, train, not args.no_merge)
    reward: Any = found.get("reward spec") or (None, [])  # no spec: the reward is not this package's
    spec, gold = reward
    if spec and spec.engine.where == "ray":
        row("room for scorers", machine.check_scorers, config, spec.engine, here)
    for answer in gold:
        task = str(answer.extra_info.get("task") or answer.data_source.rpartition("/")[2])
        for part in spec.tasks[task]:
            row(part.reward.name, inputs.check_reward, answer, task, part, spec, config.reward.reward_model.enable)
    print(", ".join(f"{counts[status]} {status}" for status in ("pass", "warn", "fail", "skip")))
    return int(counts["fail"] > 0)


def show(counts: Counter[str], name: str, check: Callable[..., Any], *args: Any) -> Any:
    """Print and count what ``check(*args)`` finds, a Result or what has passed, and return that; None for a failure."""
    found = None
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what libraries print is no part of the table
            found = check(*args)
        text = "as launch needs it" if found is None or isinstance(found, tuple) else str(found)
        result = found if isinstance(found, Result) else Result("pass", text)
    except Exception as error:  # also whatever a broken machine makes a library raise
        result = Result("fail", f"{'' if isinstance(error, UsageError) else f'{type(error).__name__}: '}{error}")
    counts[result.status] += 1
    advice = ADVICE.get(name) if result.status in ("warn", "fail") else None
    line = f"{result.status:4}  {name:29}{result.found}{f' -> {advice}' if advice else ''}"
    width = shutil.get_terminal_size((120, 24)).columns
    print(textwrap.fill(line, width, subsequent_indent=" " * 35, break_long_words=False), flush=True)
    return None if result.status == "fail" else found or result


if __name__ == "__main__":
    sys.exit(main())
