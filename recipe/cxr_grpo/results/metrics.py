"""The metrics that verl's file logger wrote, over all attempts at a run."""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path


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


def component_means(logged: Mapping[str, float]) -> dict[str, float]:
    """The mean of every reward in one step, ``<task>/<reward>`` -> mean, from the metrics of ``plugin.trainers``."""
    components = [key.removesuffix("/floor_rate") for key in logged if key.endswith("/floor_rate")]  # rewards only
    return {component.removeprefix("reward/"): logged[f"{component}/mean"] for component in components}


def component_curves(out: Path) -> dict[str, dict[int, float]]:
    """The mean of every reward over a GRPO run, ``<task>/<reward>`` -> step -> mean."""
    means = {step: component_means(logged) for step, logged in read_metrics(out, "grpo").items()}
    names = dict.fromkeys(name for of_step in means.values() for name in of_step)
    return {name: {step: of_step[name] for step, of_step in means.items() if name in of_step} for name in names}
