"""The page of a run as one HTML file, nothing fetched: numbers, curves, and validation films before and after GRPO."""

import io
import json
from collections.abc import Mapping
from pathlib import Path

from recipe.cxr_grpo.results.validation import Estimate, Row
from recipe.cxr_grpo.viewing.page import Films, allowed, embedded, text_of

COLORS = {"before": "#d55e00", "after": "#0072b2"}  # of the plots, in the hues of film.css
SHOWN = {"grounding": 3, "report": 1}  # samples by each rule of `chosen`


def write_page(
    path: Path,
    summary: dict,
    curves: Mapping[str, Mapping[float, Estimate]],
    points: Mapping[str, Mapping[int, float]],
    before: Mapping[str, Row],
    after: Mapping[str, Row],
    images: Mapping[str, Path],
) -> None:
    """Write the page of a summary, of ``prompt_curves`` and ``validation_points``, and of films.

    The keys of ``before``, ``after`` and ``images`` (files) are sample ids. The page links to ``viewer.html``.
    """
    from jinja2 import Environment

    gains = {i: after[i].score - row.score for i, row in before.items()}
    samples = {
        task: [
            (rule, before[i], after[i])
            for rule, i in chosen({i: gain for i, gain in gains.items() if before[i].task == task}, count)
        ]
        for task, count in SHOWN.items()
    }
    shown = [row for of_task in samples.values() for _, row, _ in of_task]
    pictures = Films(len(shown))
    films: dict[str, dict] = {row.id: {"film": pictures.add(str(images[row.id])), "boxes": []} for row in shown}
    for row in (row for row in shown if row.task == "grounding"):
        kinds = {"reference": row.truth["boxes"], "before": row.quads(), "after": after[row.id].quads()}
        films[row.id]["boxes"] = [{"quad": quad, "kind": kind} for kind, quads in kinds.items() for quad in quads]
    page = Environment(autoescape=True, keep_trailing_newline=True).from_string(text_of("report.html"))
    script = text_of("film.js", "report.js")
    text = page.render(
        summary=summary,
        curves=_draw(curves, points),
        grounding=samples["grounding"],
        reports=samples["report"],
        settings=json.dumps({key: summary[key] for key in ("settings", "seconds", "scoring", "versions")}, indent=1),
        colors=COLORS,
        style=text_of("film.css"),
        script=script,
        script_hash=allowed(script),
        data=embedded({"pictures": pictures.stored, "samples": films}),
    )
    path.write_text(text)


def chosen(gains: Mapping[str, float], count: int) -> list[tuple[str, str]]:
    """Rule and id of the samples to show: ``count`` each of the first by id, the median gains and the worst gains.

    No sample comes twice.

    >>> chosen({"a": 0.5, "b": -0.1, "c": 0.2, "d": 0.1}, 1)
    [('first', 'a'), ('median gain', 'd'), ('worst gain', 'b')]
    """
    ranked = sorted(gains, key=lambda i: (gains[i], i))
    middle = max((len(ranked) - count) // 2, 0)
    rules: dict[str, str] = {}
    for rule, ids in (("first", sorted(gains)), ("median gain", ranked[middle:]), ("worst gain", ranked)):
        for i in ids[:count]:
            rules.setdefault(i, rule)
    return [(rule, i) for i, rule in rules.items()]


def _draw(curves: Mapping[str, Mapping[float, Estimate]], points: Mapping[str, Mapping[int, float]]) -> str:
    """One small plot per reward component, as SVG: mean and 95 % interval, and the validations as squares."""
    from matplotlib.figure import Figure

    columns, rows = min(3, max(1, len(curves))), max(1, -(-len(curves) // 3))
    figure = Figure(figsize=(3.6 * columns, 2.4 * rows))
    for number, (name, estimates) in enumerate(curves.items(), 1):
        axis = figure.add_subplot(rows, columns, number)
        low, high = zip(*(found.ci95 for found in estimates.values()), strict=True)
        axis.fill_between([*estimates], low, high, color="#9bb8e8", alpha=0.5, linewidth=0)
        axis.plot([*estimates], [found.mean for found in estimates.values()], ".-", color=COLORS["after"])
        of_validations = points.get(name, {})
        axis.plot([*of_validations], [*of_validations.values()], "s", color=COLORS["before"], markersize=5)
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("GRPO step", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
    figure.tight_layout()
    svg = io.StringIO()
    figure.savefig(svg, format="svg", metadata={"Date": None})
    return svg.getvalue()[svg.getvalue().index("<svg") :]
