"""Pictures that show why: of results (IoU, length, correlation, findings) and of runs (rewards, use of films)."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recipe.cxr_grpo.results.evaluations import Evaluation, grouped, pooled, statistics
from recipe.cxr_grpo.results.films import film_dependence
from recipe.cxr_grpo.results.intervals import Statistic, bootstrap, interval, mean_of
from recipe.cxr_grpo.results.metrics import prompt_curves, read_metrics, validation_points
from recipe.cxr_grpo.results.tables import PAPER
from recipe.cxr_grpo.results.validation import OWN, Estimate, read_validation
from reward_fns.models.chexbert import OBSERVATIONS

_DRAWS, _FINDINGS = 2000, 14  # of the bootstrap; shown, the most frequent ones
Panel = tuple[str, str, Callable[[Any], None]]  # picture, title, what draws on axes
Pools = Mapping[str, pd.DataFrame]  # model -> numbers of its samples


def draw(evaluations: Sequence[Evaluation], runs: Sequence[Path], out: Path) -> list[Path]:
    """Write every picture that there are data for, as SVG and PNG, the same bytes each time; returns the paths."""
    import matplotlib
    from matplotlib.figure import Figure

    pictures: dict[str, list[Panel]] = {}
    for panel in (*_of_results(evaluations), *(panel for run in runs for panel in _of_run(run))):
        pictures.setdefault(panel[0], []).append(panel)
    with matplotlib.rc_context({"svg.hashsalt": "cxr-grpo", "text.parse_math": False, "font.size": 8}):
        for name, panels in pictures.items():
            columns, rows = min(3, len(panels)), -(-len(panels) // 3)
            figure = Figure(figsize=(4.8 * columns, 3.8 * rows), layout="constrained")
            for number, (_, title, on) in enumerate(panels, 1):
                on(axes := figure.add_subplot(rows, columns, number, title=title))
                if axes.get_legend_handles_labels()[1]:
                    axes.legend(fontsize=6, loc="upper left", bbox_to_anchor=(1, 1))
            figure.savefig(out / f"{name}.svg", metadata={"Date": None})
            figure.savefig(out / f"{name}.png", dpi=120)
    return [out / f"{name}.{kind}" for name in pictures for kind in ("svg", "png")]


def _of_results(evaluations: Sequence[Evaluation]) -> Iterator[Panel]:
    for (task, data_set), models in grouped(evaluations).items():
        pools = {" ".join(model.split()): pooled(arms) for model, arms in models.items()}
        metrics = [metric for metric in PAPER["metrics"] if all(metric in pool for pool in pools.values())]
        if "mean_iou" in metrics:
            yield "iou", f"mean IoU of a sample, {data_set}", partial(_iou, pools)
        if "answer_chars" in metrics:
            lead = "radcliq" if "radcliq" in metrics else metrics[0]
            yield "length", f"score and length, {data_set}", partial(_length, pools, lead)
        for model, pool in pools.items():
            yield "correlation", f"{model}, {data_set} {task}", partial(_correlation, pool[metrics])
        asked = [(found.gold, row) for found in next(iter(models.values()))[OWN] for row in found.rows]
        labels = {(gold, row["id"]): row.get("labels", ()) for gold, row in asked}
        if ("ap50_paper" in metrics and any(labels.values())) or all("hits 0" in pool for pool in pools.values()):
            yield "findings", f"by finding, {data_set}", partial(_findings, pools, [labels[key] for key in pool.index])


def _iou(pools: Pools, axes: Any) -> None:
    for model, pool in pools.items():
        axes.ecdf(pool["mean_iou"].dropna(), complementary=True, label=model)
    axes.set(xlabel="IoU (misses count 0)", ylabel="share of samples with more", xlim=(0, 1))


def _length(pools: Pools, lead: str, axes: Any) -> None:
    for model, pool in pools.items():
        axes.scatter(pool["answer_chars"], pool[lead], s=4, alpha=0.4, label=model, rasterized=True)
    axes.set(xlabel="characters of the answer", ylabel=PAPER["metrics"][lead][0])


def _correlation(numbers: pd.DataFrame, axes: Any) -> None:
    """Spearman's, of every two metrics."""
    table = numbers.corr("spearman").to_numpy()
    names = [PAPER["metrics"][metric][0] for metric in numbers]
    axes.imshow(table, vmin=-1, vmax=1, cmap="RdBu")
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    for (row, column), value in np.ndenumerate(table):
        color = "white" if abs(value) > 0.6 else "black"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=6, color=color)


def _findings(pools: Pools, asked: Sequence[Sequence[str]], axes: Any) -> None:
    """AP@0.5 or CheXbert's F1 of each finding with 95 % intervals, the models beside each other."""
    often = [label for label, _ in Counter(label for labels in asked for label in labels).most_common(_FINDINGS)]
    for number, (model, pool) in enumerate(pools.items()):
        if "ap50_paper" in pool:
            parts = {label: mean_of(pool["ap50_paper"].where([label in labels for labels in asked])) for label in often}
        else:
            counts = statistics(pool)["chexbert_micro_14"].columns
            parts = {
                label: Statistic(counts[:, [place, place + 14]], "micro") for place, label in enumerate(OBSERVATIONS)
            }
        drawn = bootstrap(parts, pool["patient"], _DRAWS).values()
        middle, low, high = np.array([(value, *interval(draws)) for value, draws in drawn]).T
        heights = np.arange(len(parts)) + 0.7 * number / len(pools)
        axes.errorbar(middle, heights, xerr=(middle - low, high - middle), fmt=".", label=model, linewidth=1)
    axes.set_yticks(np.arange(len(parts)) + 0.35, [*parts])
    axes.set(xlabel="mAP@0.5 (paper)" if "ap50_paper" in pool else "CheXbert F1")
    axes.invert_yaxis()


def _of_run(run: Path) -> Iterator[Panel]:
    logged, curves = read_metrics(run, "grpo"), prompt_curves(run)
    points, length = validation_points(logged), "response_length/mean"
    points["response_length"] = {step: values[length] for step, values in logged.items() if length in values}
    for name in (*curves, "response_length"):
        estimates = {"": curves[name]} if name in curves else {}
        landmarks = name.split("/")[-1] if "report/radcliq" in curves else ""
        yield "curves", f"{run.name}: {name}", partial(_course, estimates, points.get(name, {}), landmarks)
    gaps: dict[str, dict[float, Estimate]] = {}
    for dump in sorted((run / "validation").glob("*.jsonl"), key=lambda path: int(path.stem)):
        rows = read_validation(dump)
        for control in sorted(rows.keys() - {OWN}):
            for task, found in film_dependence(rows[OWN], rows[control]).items():
                gaps.setdefault(f"{task}, own minus {control}", {})[int(dump.stem)] = Estimate(**found["difference"])
    if gaps:
        yield "films", f"{run.name}: more reward on own films", partial(_course, gaps, {}, "")


def _course(
    curves: Mapping[str, Mapping[float, Estimate]], points: Mapping[int, float], landmarks: str, axes: Any
) -> None:
    """Estimates over steps with their intervals, single values as squares, and the landmarks of the paper's curve."""
    for label, curve in curves.items():
        axes.plot([*curve], [found.mean for found in curve.values()], ".-", label=label)
        axes.fill_between([*curve], *zip(*(found.ci95 for found in curve.values()), strict=True), alpha=0.3)
    axes.plot([*points], [*points.values()], "s", color="tab:orange", markersize=4)
    for label, course in PAPER["landmarks"].get(landmarks, {}).items():
        axes.plot([*course], [*course.values()], "--", label=f"the paper's, {label}")
    axes.set(xlabel="GRPO step")
