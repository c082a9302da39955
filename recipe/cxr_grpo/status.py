"""One screen about a run, at work, in a queue or after its end: progress, curves, failures, warnings by named rules.

Exit status 0: healthy, 1: a warning, 2: wrong use, or no run there.
"""

import argparse
import contextlib
import json
import math
import mmap
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from statistics import fmean, median
from typing import Any

import yaml
from rich import console, live, panel, table
from rich.text import Text

from data_prep.options import folder, positive, probability
from recipe.cxr_grpo.records import checkpoints, heartbeat
from recipe.cxr_grpo.results import rules
from recipe.cxr_grpo.results.metrics import failure_note, read_failures, read_metrics, scoring, validation_points
from recipe.cxr_grpo.running import failures, locks
from reward_fns.errors import UsageError

SLURM_JOB = "slurm_job"  # the file in a run's folder with the id of the Slurm job that trains it
QUEUED = {"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT"}
AT_WORK = {"CONFIGURING", "RUNNING", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "SUSPENDED"}
OF_STATE = {"stopped": "not_resumed", "stalled": "stalled"}  # the rules that warn about a state
STARTED = (b"ray init kwargs: ", b"Before FSDP, memory")  # early in the log of an attempt, GRPO and SFT
TAIL = 2**18  # bytes of a log in which the cause of a run's end is looked for: it can have gigabytes
FRESH = 10.0  # seconds: a trainer that lives is heard every two, also from a machine whose locks can't be seen
RECENT = 20  # steps of which times are taken
CURVES = r"reward/[^/]+/(?!n_|format)[^/]+/mean|response_length/mean|actor/(kl_loss|grad_norm)|train/(loss|lr)|val/loss"


class Run:
    """A run by its folder: ``kind`` (grpo, sft), ``total`` steps, ``limits`` for failures; UsageError without a run."""

    def __init__(self, out: Path) -> None:
        self.out, self.checkpoints = out, out / "checkpoints"
        self.kind, self.total = "", 0
        self.limits: dict[str, float] = {}
        logs = {log.stat().st_mtime: log for name in ("grpo", "sft") if (log := out / f"{name}.log").is_file()}
        if not logs and not any((out / name).exists() for name in (SLURM_JOB, "state.json", "checkpoints")):
            inside = sorted(str(log.parent) for log in out.glob("*/*.log") if log.stem in {"grpo", "sft"})
            advice = " or ".join(inside) or "the --out of launch or of the quickstart"
            raise UsageError(f"no run in {out}: it has no grpo.log, sft.log or {SLURM_JOB}. Give {advice}.")
        if not logs or not (log := logs[max(logs)]).stat().st_size:
            return
        self.log, self.kind = log, log.stem
        with log.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            self.tail = max(*map(text.rfind, STARTED), len(text) - TAIL, 0)
            totals = re.findall(rb"Total (?:training )?steps: (\d+)", text)
            folders = re.findall(rb"'default_local_dir': '([^']+)'", text)
            specs = re.findall(rb"'reward_kwargs': {(?s:.{0,300}?)'(preset|spec)': '([^']+)'", text)
        self.total = int(totals[-1]) if totals else 0
        self.limits = _limits(*map(os.fsdecode, specs[-1])) if specs else {}
        if folders and not self.checkpoints.exists():
            self.checkpoints = Path(os.fsdecode(folders[-1]))

    def state(self, step: int) -> tuple[str, str]:
        """The state after ``step``, and more: not started, queued, running, stalled, stopped (its cause) or ended."""
        job, described = _slurm_job(self.out)
        if job in QUEUED:
            return "queued", described
        beat = heartbeat.read(self.checkpoints / heartbeat.FILE)
        silence = time.time() - beat["time"] if beat else math.inf
        elsewhere = silence < FRESH and beat.get("host") != os.uname().nodename  # here, the lock says it
        if elsewhere or job in AT_WORK or any(map(_held, self.checkpoints.glob("run*.lock"))):
            heard = f"phase {beat['phase']!r} of step {beat['step']}, heartbeat {silence:.0f} s ago" if beat else ""
            stalled = beat and silence > max(heartbeat.MIN_SILENCE, beat["silence_limit"])
            return "stalled" if stalled else "running", "; ".join(filter(None, (heard, described)))
        if not self.kind or (self.total and step >= self.total):
            return "ended" if self.kind else "not started", described
        problem, folders = f"{self.kind} ended after step {step}", (self.out, self.checkpoints)
        cause = failures.explain(problem, self.log, self.tail, folders).cause
        return "stopped", "; ".join(filter(None, (cause, described)))

    def newest_checkpoint(self) -> int | None:
        """The step of the newest complete checkpoint, by its files' sizes; the next start checks their content too."""
        names = (path.name.removeprefix("global_step_") for path in self.checkpoints.glob("global_step_*"))
        return max((int(name) for name in names if name.isdecimal() and self._complete(name)), default=None)

    def _complete(self, step: str) -> bool:
        checkpoint = self.checkpoints / f"global_step_{step}"
        try:
            if not (checkpoint / checkpoints.MANIFEST).exists():  # of supervised training, or older: verl knows
                return (self.checkpoints / checkpoints.TRACKER).read_text().strip() == step
            files = heartbeat.read(checkpoint / checkpoints.MANIFEST)["files"]
            return all((checkpoint / name).stat().st_size == entry["size"] for name, entry in files.items())
        except (OSError, KeyError):  # one that verl removes just now, or a torn manifest
            return False


def _limits(kind: str, name: str) -> dict[str, float]:
    """What a reward spec, a preset or a file, says of failing rewards; empty where it can't be read now."""
    path = resources.files("reward_fns") / "presets" / f"{name}.yaml" if kind == "preset" else Path(name)
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))["failures"]
        return {limit: found[limit] for limit in ("max_rate", "window") if limit in found}
    except (OSError, ValueError, LookupError, TypeError, yaml.YAMLError):
        return {}


def _slurm_job(out: Path) -> tuple[str, str]:
    """State and description of the job that the file ``slurm_job`` names, empty where none is in Slurm's queue."""
    try:
        name = (out / SLURM_JOB).read_text().strip()
        command = ["squeue", "--noheader", f"--jobs={name}", "--format=%T|%S|%e|%r"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
        state, start, end, reason = answer.splitlines()[0].strip().split("|", 3)
    except subprocess.SubprocessError as error:  # also for a job that Slurm has forgotten
        said = " ".join(str(getattr(error, "stderr", None) or error).split())
        return "", "" if "Invalid job id specified" in said else f"Slurm does not say whether job {name} runs: {said}"
    except (OSError, LookupError, ValueError):
        return "", ""
    return state, f"Slurm job {name} {state.lower()} ({reason}), from {start} until {end}"


def _held(path: Path) -> bool:
    """Whether a process holds a lock; also one on another machine, if the file system shares its locks."""
    try:
        with locks.lock(path, "it is held"):
            return False
    except UsageError:
        return True


def facts(out: Path, max_rate: float | None) -> dict[str, Any]:
    """All that the screen shows of the run in a folder, ready for JSON; UsageError if no run is there."""
    run = Run(out)
    read = read_metrics(out, run.kind) if run.kind else {}
    steps = {step: {key: x for key, x in logged.items() if math.isfinite(x)} for step, logged in read.items()}
    names, step = sorted({name for logged in steps.values() for name in logged}), max(steps, default=0)
    state, more = run.state(step)
    timed = [logged for logged in steps.values() if "timing_s/step" in logged][-RECENT:]
    timings = [name for name in names if name.startswith("timing_s/")]
    parts = {name[9:]: fmean(logged.get(name, 0.0) for logged in timed) for name in timings}
    seconds = median(logged["timing_s/step"] for logged in timed) if timed else 0.0
    end = time.localtime(time.time() + (run.total - step) * (seconds + parts.get("testing", 0.0)))
    points = validation_points(steps)
    curves = {f"validation/{name}": points[name] for name in points if name.endswith("/score")}
    for name in filter(re.compile(CURVES).fullmatch, names):
        curves[name] = {at: logged[name] for at, logged in steps.items() if name in logged}
    scored = scoring(out, run.checkpoints)
    used = subprocess.run(["du", "-sbc", out, run.checkpoints], capture_output=True, text=True).stdout.split()
    limits = run.limits | ({} if max_rate is None else {"max_rate": max_rate})
    saw = f"{state} in step {step}" + (f" of {run.total}" if run.total else "")
    warnings = [rules.warned(OF_STATE[state], saw)] if state in OF_STATE else []
    return {
        "run": str(out),
        "state": state,
        "detail": more,
        "step": step,
        "total": run.total,
        "seconds_per_step": seconds,
        "expected_end": time.strftime("%F %H:%M", end) if state == "running" and seconds and run.total else "",
        "mean_seconds": dict(sorted(parts.items(), key=lambda part: -part[1])),
        **scored,
        "unscored_share": scored["train"]["unscored"] / max(scored["train"]["rollouts"], 1),
        "failures": {f"step {row['step']}:": failure_note(row) for row in read_failures(run.checkpoints)[-2:]},
        "newest_checkpoint": run.newest_checkpoint(),
        "gigabytes": {"used": int(used[-2]) / 1e9 if used else 0.0, "free": shutil.disk_usage(out).free / 1e9},
        "curves": {name: _summary(curve) for name, curve in curves.items()},
        "warnings": warnings + rules.check(steps, limits),
    }


def _summary(curve: dict[int, float]) -> dict[str, Any]:
    first, best, last = min(curve), max(curve, key=curve.__getitem__), max(curve)
    return {"first": curve[first], "highest": curve[best], "in_step": best, "latest": curve[last], "points": curve}


def sparkline(values: Sequence[float], width: int = 24) -> str:
    """A curve as a line of blocks, each the mean of as many values as any other.

    >>> sparkline([1, 2, 2, 8, 4, 4], width=3)
    '▁█▆'
    """
    size = -(-len(values) // width)
    means = [fmean(values[start : start + size]) for start in range(0, len(values), size)]
    low, high = min(means), max(means)
    return "".join("▁▂▃▄▅▆▇█"[round(7 * (mean - low) / ((high - low) or 1))] for mean in means)


def words(fact: Any) -> Text:
    """A fact for the screen, without what the terminal, or rich, would take for a command."""
    if isinstance(fact, dict):
        return Text(", ").join(Text(" ").join(map(words, item)) for item in fact.items())
    shown = f"{fact:.4g}" if isinstance(fact, float) else str(fact)
    return Text("".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in shown))


def screen(found: dict[str, Any]) -> panel.Panel:
    """The facts about a run as a panel."""
    lines, curves = table.Table.grid(padding=(0, 2)), table.Table("", "first", "highest", "in step", "latest", box=None)
    for name, fact in found.items():
        if (any(fact.values()) if isinstance(fact, dict) else fact) and name not in {"run", "curves", "warnings"}:
            lines.add_row(name.replace("_", " "), words(fact))
    for name, summary in found["curves"].items():
        *numbers, points = summary.values()
        label = words(name.removeprefix("reward/").removesuffix("/mean"))
        curves.add_row(label, *map(words, numbers), sparkline([*points.values()]))
    warnings = (words("{rule}: {saw}. {advice}".format_map(warning)) for warning in found["warnings"])
    # Curves come last: a terminal with few lines cuts them off.
    return panel.Panel(console.Group(lines, *warnings, *[curves] * bool(found["curves"])), title=words(found["run"]))


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    example = "example: %(prog)s runs/quickstart --watch 10"
    parser = argparse.ArgumentParser("python -m recipe.cxr_grpo.status", description=__doc__, epilog=example)
    parser.add_argument("runs", type=folder, nargs="+", metavar="RUN", help="the --out of launch or of the quickstart")
    rate = "share of rollouts without a reward above which to warn (failures.max_rate of the run's reward spec)"
    parser.add_argument("--max-failure-rate", type=probability, metavar="SHARE", help=rate)
    parser.add_argument("--watch", type=positive, metavar="SECONDS", help="do it again and again, until Ctrl-C")
    parser.add_argument("--json", action="store_true", help="print the same facts, one line of JSON for each run")
    args = parser.parse_args(argv)
    with contextlib.suppress(KeyboardInterrupt), live.Live(console=console.Console(), auto_refresh=False) as shown:
        while True:
            try:
                runs = [facts(out, args.max_failure_rate) for out in args.runs]
            except UsageError as error:
                print(f"status: {error}", file=sys.stderr)
                return 2
            if args.json:
                print(*map(json.dumps, runs), sep="\n", flush=True)
            else:
                shown.update(console.Group(*map(screen, runs), ""), refresh=True)
            if not args.watch:
                break
            time.sleep(args.watch)
    return int(any(found["warnings"] for found in runs))


if __name__ == "__main__":
    sys.exit(main())
