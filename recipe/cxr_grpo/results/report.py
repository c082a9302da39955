"""The page of a run: numbers, curves, and validation films before and after GRPO.

One self-contained HTML file: styles, curves (SVG) and films (PNG) are embedded, nothing is fetched.
"""

import base64
import io
import json
from collections.abc import Iterable, Mapping
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

import numpy as np

from recipe.cxr_grpo.results.validation import Row
from reward_fns.conventions import get_convention

FILMS = 12
TRUTH, BEFORE, AFTER = "#2e9e5b", "#d9822b", "#2b6cd9"


def write_page(
    path: Path,
    summary: dict,
    components: Mapping[str, Mapping[int, float]],
    before: Mapping[str, Row],
    after: Mapping[str, Row],
    images: Mapping[str, Path],
) -> None:
    """Write the page.

    Args:
        path: HTML file to write.
        summary: the content of ``summary.json``.
        components: task and name of a reward -> GRPO step -> its mean over that step's rollouts.
        before, after: sample id -> row of the validation before and after GRPO.
        images: sample id -> image file.
    """
    grounding = sorted(i for i, row in before.items() if row.task == "grounding")
    reports = sorted(i for i, row in before.items() if row.task == "report")
    page = Template((resources.files(__package__) / "report.html").read_text())
    path.write_text(
        page.substitute(
            table=_table(summary),
            curves=_curves(components),
            films="".join(_film(before[i], after[i], images[i]) for i in _spread(grounding, FILMS)),
            reports="".join(_report(before[i], after[i], images[i]) for i in _spread(reports, 3)),
            settings=escape(json.dumps({k: summary[k] for k in ("settings", "seconds", "versions")}, indent=1)),
            decoding=escape(summary["decoding"]),
            truth=TRUTH,
            before=BEFORE,
            after=AFTER,
        )
    )


def _spread(ids: list[str], count: int) -> list[str]:
    """``count`` ids at even distances: a choice that does not depend on the results."""
    if len(ids) <= count:
        return ids
    return [ids[i] for i in np.linspace(0, len(ids) - 1, count).round().astype(int)]


def _table(summary: dict) -> str:
    rows = []
    for task, difference in summary["difference"].items():
        low, high = difference["ci95"]
        means = [f"{summary[when][task]['mean']:.3f}" for when in ("before", "after")]
        interval = f"{low:+.3f} to {high:+.3f}"
        cells = [task, *means, f"{difference['mean']:+.3f}", interval, str(difference["n"])]
        rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    return "".join(rows)


def _curves(components: Mapping[str, Mapping[int, float]]) -> str:
    """One small plot per reward component, as SVG."""
    from matplotlib.figure import Figure
    from pandas import Series

    columns = min(3, max(1, len(components)))
    rows = max(1, -(-len(components) // columns))
    figure = Figure(figsize=(3.6 * columns, 2.4 * rows))
    for number, (name, values) in enumerate(components.items(), 1):
        means = Series(values)
        axis = figure.add_subplot(rows, columns, number)
        axis.plot(means, ".", color="#9bb8e8", markersize=4)
        axis.plot(means.rolling(5, center=True, min_periods=1).mean(), color=AFTER)
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("GRPO step", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
    figure.tight_layout()
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()[out.getvalue().index("<svg") :]


def _png(image: Path) -> str:
    return base64.b64encode(image.read_bytes()).decode()


def _boxes(boxes: Iterable[Iterable[float]], color: str) -> str:
    return "".join(
        f'<rect x="{x1 * 100:.2f}" y="{y1 * 100:.2f}" width="{(x2 - x1) * 100:.2f}" height="{(y2 - y1) * 100:.2f}" '
        f'fill="none" stroke="{color}" stroke-width="1.2"/>'
        for x1, y1, x2, y2 in boxes
    )


def _predicted(row: Row) -> list[tuple[float, float, float, float]]:
    frame = row.truth.get("frame") or (1, 1)
    return [box.quad for box in get_convention(row.box_format).parse(row.answer, tuple(frame)).boxes]


def _film(before: Row, after: Row, image: Path) -> str:
    data, truth = _png(image), _boxes(before.truth["boxes"], TRUTH)
    pictures = "".join(
        f'<div><svg viewBox="0 0 100 100"><image href="data:image/png;base64,{data}" width="100" height="100" '
        f'preserveAspectRatio="none"/>{truth}{_boxes(_predicted(row), color)}</svg>'
        f"<span>{name} {row.score:.2f}</span></div>"
        for name, row, color in (("before", before, BEFORE), ("after", after, AFTER))
    )
    return f'<figure><div class="pair">{pictures}</div><figcaption>{escape(_question(before))}</figcaption></figure>'


def _report(before: Row, after: Row, image: Path) -> str:
    texts = "".join(
        f'<dt style="color:{color}">{name}</dt><dd>{escape(text)}</dd>'
        for name, text, color in (
            ("reference", before.truth["report"], TRUTH),
            (f"before, {before.score:.2f}", before.answer, BEFORE),
            (f"after, {after.score:.2f}", after.answer, AFTER),
        )
    )
    return f'<figure class="report"><img src="data:image/png;base64,{_png(image)}" alt=""><dl>{texts}</dl></figure>'


def _question(row: Row) -> str:
    """The question in verl's decoded prompt: its last line that is not the assistant's turn."""
    lines = [line.strip() for line in row.question.splitlines() if line.strip() not in ("", "user", "assistant")]
    return lines[-1] if lines else ""
