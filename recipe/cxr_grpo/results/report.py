"""The page of a run as one HTML file, nothing fetched: numbers, curves, and validation films before and after GRPO."""

import base64
import io
import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import numpy as np

from recipe.cxr_grpo.results.validation import Row

COLORS = {"reference": "#2e9e5b", "before": "#d9822b", "after": "#2b6cd9"}
SHOWN = {"grounding": 12, "report": 3}


def write_page(
    path: Path,
    summary: dict,
    components: Mapping[str, Mapping[int, float]],
    before: Mapping[str, Row],
    after: Mapping[str, Row],
    images: Mapping[str, Path],
) -> None:
    """Write the page of a summary and curves; keys of ``before``, ``after`` and ``images`` (files) are sample ids."""
    from jinja2 import Environment

    samples = {}
    for task, count in SHOWN.items():
        ids = sorted(i for i, row in before.items() if row.task == task)
        if len(ids) > count:  # at even distances: a choice that does not depend on the results
            ids = [ids[i] for i in np.linspace(0, len(ids) - 1, count).round().astype(int)]
        samples[task] = [(before[i], after[i], base64.b64encode(images[i].read_bytes()).decode()) for i in ids]
    template = (resources.files(__package__) / "report.html").read_text()
    page = Environment(autoescape=True, keep_trailing_newline=True).from_string(template)
    text = page.render(
        summary=summary,
        curves=_curves(components),
        grounding=samples["grounding"],
        reports=samples["report"],
        settings=json.dumps({key: summary[key] for key in ("settings", "seconds", "versions")}, indent=1),
        colors=COLORS,
    )
    path.write_text(text)


def _curves(components: Mapping[str, Mapping[int, float]]) -> str:
    """One small plot per reward component, as SVG."""
    from matplotlib.figure import Figure
    from pandas import Series

    columns, rows = min(3, max(1, len(components))), max(1, -(-len(components) // 3))
    figure = Figure(figsize=(3.6 * columns, 2.4 * rows))
    for number, (name, values) in enumerate(components.items(), 1):
        means = Series(values)
        axis = figure.add_subplot(rows, columns, number)
        axis.plot(means, ".", color="#9bb8e8", markersize=4)
        axis.plot(means.rolling(5, center=True, min_periods=1).mean(), color=COLORS["after"])
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("GRPO step", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
    figure.tight_layout()
    svg = io.StringIO()
    figure.savefig(svg, format="svg", metadata={"Date": None})
    return svg.getvalue()[svg.getvalue().index("<svg") :]
