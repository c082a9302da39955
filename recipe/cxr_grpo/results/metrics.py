"""The metrics that verl's file logger wrote, over all attempts at a run, and curves of the rewards in its rollouts."""

import contextlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from recipe.cxr_grpo.results.validation import Estimate, estimate


def read_metrics(out: Path, kind: str) -> dict[int, dict[str, float]]:
    """The metrics of a run of ``kind`` grpo or sft: step -> name -> value; a later attempt replaces a step's values."""
    steps: dict[int, dict[str, float]] = {}
    paths = out.glob(f"{kind}.metrics.*.jsonl")
    for path in sorted(paths, key=lambda path: int(path.name.split(".")[-2])):
        for line in path.read_text().splitlines():
            with contextlib.suppress(json.JSONDecodeError):  # the last line of an interrupted run
                row = json.loads(line)
                steps.setdefault(row["step"], {}).update(row["data"])
    return dict(sorted(steps.items()))


FAILURES = "failures.jsonl"
"""What failed in a step or a validation, and why: written by ``plugin.trainers`` beside the checkpoints."""


def read_failures(checkpoints: Path) -> list[dict[str, Any]]:
    """The rows of :data:`FAILURES`, the last of each step and part; empty if nothing failed."""
    path = checkpoints / FAILURES
    if not path.exists():
        return []
    rows = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):  # the last line of an interrupted run
            row = json.loads(line)
            rows[row["step"], row["part"]] = row
    return list(rows.values())


def failure_note(row: Mapping[str, Any]) -> str:
    """What a row of :data:`FAILURES` says, for a line of the terminal.

    >>> row = {"rollouts": 64, "unscored": 13, "rewards": {"gleu": {"failures": 13, "causes": {"OSError('down')": 13}}}}
    >>> failure_note(row)
    "13 of 64 rollouts without a reward (20.3 %): gleu 13 (OSError('down'))"
    """
    share = f"{row['unscored'] / row['rollouts']:.1%}".replace("%", " %")
    causes = []
    for name, fared in row["rewards"].items():
        most = max(fared["causes"], key=fared["causes"].get, default="")
        causes.append(f"{name} {fared['failures']}" + (f" ({most})" if most else ""))
    what = f"{row['unscored']} of {row['rollouts']} rollouts without a reward ({share})"
    return f"{what}: {', '.join(causes) or 'no reward failed, see the log'}"


def scoring(out: Path, checkpoints: Path) -> dict[str, Any]:
    """How much of a run was scored: ``train`` and ``validation`` with ``rollouts`` and ``unscored``, and ``causes``.

    ``causes`` has, per reward, the number of failures by cause.
    """
    logged = read_metrics(out, "grpo").values()
    sums = {"train": Counter(rollouts=0, unscored=0), "validation": Counter(rollouts=0, unscored=0)}
    for step in logged:
        scored = sum(int(value) for key, value in step.items() if re.fullmatch(r"reward/[^/]+/rollouts", key))
        of_validation = int(step.get("reward/validation/rollouts", 0))
        failed = int(step.get("reward/failed_rollouts", 0))
        sums["train"].update(rollouts=scored - of_validation + failed, unscored=failed)
        sums["validation"].update(
            rollouts=of_validation, unscored=int(step.get("reward/validation/failed_rollouts", 0))
        )
    causes: dict[str, Counter[str]] = {}
    for row in read_failures(checkpoints):
        for name, fared in row["rewards"].items():
            causes.setdefault(name, Counter()).update(fared["causes"])
    return {**{part: dict(counts) for part, counts in sums.items()}, "causes": {k: dict(v) for k, v in causes.items()}}


def component_means(logged: Mapping[str, float]) -> dict[str, float]:
    """The mean of every reward in one step, ``<task>/<reward>`` -> mean, from the metrics of ``plugin.trainers``."""
    components = [key.removesuffix("/floor_rate") for key in logged if key.endswith("/floor_rate")]  # rewards only
    return {component.removeprefix("reward/"): logged[f"{component}/mean"] for component in components}


def validation_points(steps: Mapping[int, Mapping[str, float]]) -> dict[str, dict[int, float]]:
    """The mean of every reward in the validations, on patients' own films: ``<task>/<reward>`` -> step -> mean."""
    points: dict[str, dict[int, float]] = {}
    for step, logged in steps.items():
        for key in filter(re.compile(r"val-aux/.+/mean@1").fullmatch, logged):
            *source, task, reward, _ = key.split("/")
            if not source[-1].startswith("films_"):
                points.setdefault(f"{task}/{reward}", {})[step] = logged[key]
    return points


def prompt_curves(out: Path, window: int = 5) -> dict[str, dict[float, Estimate]]:
    """The mean of every reward over a GRPO run, ``<task>/<reward>`` -> middle of a window of steps -> estimate.

    A prompt's value is the mean over its rollouts in ``out/rollouts``, and the interval is a bootstrap over the prompts
    of the window: a step has too few of them. A reward that failed, of weight 0, is left out.
    """
    logged = read_metrics(out, "grpo")
    names = dict.fromkeys(name for of_step in logged.values() for name in component_means(of_step))
    prompts: dict[str, dict[int, dict[str, list[float]]]] = {name: {} for name in names}
    for path in (out / "rollouts").glob("*.jsonl"):
        with path.open(encoding="utf-8") as file:
            for row in map(json.loads, file):
                first = (row["step"] - 1) // window * window + 1
                for name in names:
                    task, _, reward = name.partition("/")
                    if row["task"] == task and row[reward] is not None:
                        prompt = f"{row['step']}/{row['id']}"
                        prompts[name].setdefault(first, {}).setdefault(prompt, []).append(row[reward])
    last = max(logged, default=0)
    curves: dict[str, dict[float, Estimate]] = {}
    for name, windows in prompts.items():
        for first, of_prompt in sorted(windows.items()):
            middle = (first + min(first + window - 1, last)) / 2
            means = [fmean(values) for values in of_prompt.values()]
            curves.setdefault(name, {})[middle] = estimate(means, [*of_prompt])
    return curves
