"""Pictures that show why: of results (IoU, length, correlation, findings) and of runs (rewards, dependence on films)."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from recipe.cxr_grpo.results.evaluations import Evaluation, Score, grouped, pooled, statistics
from recipe.cxr_grpo.results.films import film_dependence
from recipe.cxr_grpo.results.intervals import Statistic, bootstrap, interval, mean_of
from recipe.cxr_grpo.results.metrics import prompt_curves, read_metrics, validation_points
from recipe.cxr_grpo.results.tables import PAPER
from recipe.cxr_grpo.results.validation import OWN, Estimate, read_validation
from reward_fns.models.chexbert import OBSERVATIONS

_DRAWS, _FINDINGS = 2000, 14  # of the bootstrap; in a panel, the most frequent ones
Panel = tuple[str, str, Callable[[Any], None]]  # picture, title, what draws on axes
Of = Mapping[str, Mapping[str, Statistic]]  # model -> metric -> statistic, of the same samples


def draw(evaluations: Sequence[Evaluation], runs: Sequence[Path], out: Path) -> list[Path]:
    """Write every picture that there are data for, as SVG and PNG, the same bytes each time; returns the paths."""
    import matplotlib
    from matplotlib.figure import Figure

    paths: list[Path] = []
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
                    axes.legend(fontsize=6)
            paths += [out / f"{name}.svg", out / f"{name}.png"]
            figure.savefig(paths[-2], metadata={"Date": None})
            figure.savefig(paths[-1], dpi=120)
    return paths


def _of_results(evaluations: Sequence[Evaluation]) -> Iterator[Panel]:
    for (task, data_set), models in grouped(evaluations).items():
        samples = {model: pooled(arms[OWN], arms[OWN]) for model, arms in models.items() if OWN in arms}
        asked = {key: row for found in samples.values() for key, (row, *_) in found.items()}
        of = {model: statistics(found, [*asked]) for model, found in samples.items()}
        metrics = dict.fromkeys(metric for found in of.values() for metric in found)
        lead = next((metric for metric in ("radcliq", "ap50_paper", *metrics) if metric in metrics), "")
        if "mean_iou" in metrics:
            yield "iou", f"mean IoU of a sample, {data_set}", partial(_iou, of)
        if "answer_chars" in metrics:
            yield "length", f"score and length, {data_set}", partial(_length, of, lead)
        for model, found in of.items():
            yield "correlation", f"{model}, {data_set}", partial(_correlation, found)
        if "chexbert_micro_14" in metrics or task == "grounding":
            shown = lead if task == "grounding" else "chexbert_micro_14"
            yield "findings", f"{_name(shown)} by finding, {data_set}", partial(_findings, of, shown, [*asked.values()])


def _name(metric: str) -> str:
    return PAPER["metrics"].get(metric, [metric])[0]


def _values(statistic: Statistic) -> np.ndarray:
    """A mean's values, NaN where it does not apply."""
    return np.where(statistic.columns[:, 1] > 0, statistic.columns[:, 0], np.nan)


def _iou(of: Of, axes: Any) -> None:
    for model, found in of.items():
        values = _values(found["mean_iou"])
        axes.ecdf(values[~np.isnan(values)], complementary=True, label=model)
    axes.set(xlabel="IoU (misses count 0)", ylabel="share of samples with more", xlim=(0, 1))


def _length(of: Of, lead: str, axes: Any) -> None:
    for model, found in of.items():
        axes.scatter(_values(found["answer_chars"]), _values(found[lead]), s=4, alpha=0.4, label=model, rasterized=True)
    axes.set(xlabel="characters of the answer", ylabel=_name(lead))


def _correlation(found: Mapping[str, Statistic], axes: Any) -> None:
    from pandas import DataFrame

    names = [name for name, statistic in found.items() if statistic.kind == "mean"]
    table = DataFrame({_name(name): _values(found[name]) for name in names}).corr("spearman")
    axes.imshow(table, vmin=-1, vmax=1, cmap="RdBu")
    axes.set_xticks(range(len(names)), table.columns, rotation=90)
    axes.set_yticks(range(len(names)), table.columns)
    for (row, column), value in np.ndenumerate(table):
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=6)


def _findings(of: Of, metric: str, asked: Sequence[Score], axes: Any) -> None:
    """The metric of each finding, most frequent first, with 95 % intervals; models beside each other."""
    patients = [row.patient_id for row in asked]
    often = Counter(label for row in asked for label in row.labels).most_common(_FINDINGS)
    names = list(OBSERVATIONS) if metric.startswith("chexbert") else [label for label, _ in often]
    for number, (model, found) in enumerate(of.items()):
        parts = {}
        for place, name in enumerate(names):
            if metric.startswith("chexbert"):
                parts[place] = Statistic(found[metric].columns[:, [place, place + 14]], len(asked), "macro")
            else:
                has = [name in row.labels for row in asked]
                parts[place] = mean_of(np.where(has, _values(found[metric]), np.nan))
        drawn = {
            place: (value, *interval(draws)) for place, (value, draws) in bootstrap(parts, patients, _DRAWS).items()
        }
        middle, low, high = np.array([*drawn.values()]).T
        heights = np.arange(len(names)) + 0.7 * number / len(of)
        axes.errorbar(middle, heights, xerr=(middle - low, high - middle), fmt=".", label=model, linewidth=1)
    axes.set_yticks(np.arange(len(names)) + 0.35, names)
    axes.invert_yaxis()


def _of_run(run: Path) -> Iterator[Panel]:
    logged = read_metrics(run, "grpo")
    points = validation_points(logged)
    curves: dict[str, Mapping[float, Estimate]] = {**prompt_curves(run)}
    lengths = {
        step: values["response_length/mean"] for step, values in logged.items() if "response_length/mean" in values
    }
    for name in [*curves, "response_length"]:
        of_validation = points.get(name, lengths if name == "response_length" else {})
        yield (
            "rewards",
            f"{run.name}: {name}",
            partial(_course, {"": curves.get(name, {})}, of_validation, name.split("/")[-1]),
        )
    gaps: dict[str, dict[float, Estimate]] = {}
    for dump in sorted((run / "validation").glob("*.jsonl"), key=lambda path: int(path.stem)):
        rows = read_validation(dump)
        for control in sorted(rows.keys() - {OWN}):
            for task, found in film_dependence(rows[OWN], rows[control]).items():
                gaps.setdefault(f"{task}, own − {control}", {})[int(dump.stem)] = Estimate(**found["difference"])
    if gaps:
        yield "films", f"{run.name}: more reward on own films", partial(_course, gaps, {}, "")


def _course(
    curves: Mapping[str, Mapping[float, Estimate]], points: Mapping[int, float], landmarks: str, axes: Any
) -> None:
    """Estimates over steps with their intervals, single values as squares, and the landmarks of the paper's curve."""
    for label, curve in curves.items():
        if curve:
            axes.plot([*curve], [found.mean for found in curve.values()], ".-", label=label)
            axes.fill_between([*curve], *zip(*(found.ci95 for found in curve.values()), strict=True), alpha=0.3)
    axes.plot([*points], [*points.values()], "s", color="tab:orange", markersize=4)
    for label, course in PAPER["landmarks"].get(landmarks, {}).items():
        axes.plot([*course], [*course.values()], "--", label=f"the paper's, {label}")
    axes.set(xlabel="GRPO step")
