"""The metrics that verl's file logger wrote, over all attempts at a run."""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path


def read_metrics(out: Path, kind: str) -> dict[int, dict[str, float]]:
    """The logged metrics of a run, step -> name -> value; a later attempt's step replaces an earlier one's.

    Args:
        out: folder of the run.
        kind: "grpo" or "sft".
    """
    steps: dict[int, dict[str, float]] = {}
    paths = out.glob(f"{kind}.metrics.*.jsonl")
    for path in sorted(paths, key=lambda path: int(path.name.split(".")[-2])):
        for line in path.read_text().splitlines():
            with contextlib.suppress(json.JSONDecodeError):  # the last line of an interrupted run
                row = json.loads(line)
                steps.setdefault(row["step"], {}).update(row["data"])
    return dict(sorted(steps.items()))


def component_means(logged: Mapping[str, float]) -> dict[str, float]:
    """The mean of every reward in one step, ``<task>/<reward>`` -> mean, from the metrics of ``plugin.trainers``.

    >>> component_means({"reward/report/gleu/mean": 0.4, "reward/report/gleu/floor_rate": 0.0, "critic/score/mean": 1})
    {'report/gleu': 0.4}
    """
    means = {}
    for key, value in logged.items():
        component, _, statistic = key.rpartition("/")
        if statistic == "mean" and f"{component}/floor_rate" in logged:  # only rewards have a floor rate
            means[component.removeprefix("reward/")] = value
    return means


def component_curves(out: Path) -> dict[str, dict[int, float]]:
    """The mean of every reward over a GRPO run, ``<task>/<reward>`` -> step -> mean."""
    curves: dict[str, dict[int, float]] = {}
    for step, logged in read_metrics(out, "grpo").items():
        for name, mean in component_means(logged).items():
            curves.setdefault(name, {})[step] = mean
    return curves
