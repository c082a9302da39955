"""Answers in the terminal of a login node, in its pager, worst first."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean

from rich.console import Console
from rich.text import Text

from recipe.cxr_grpo.viewing.samples import Question, drawn, read_sources


def view(sources: Sequence[Path], most: int, seed: int) -> None:
    """Show questions with their latest answers in the pager of $PAGER, or print them where nobody sits."""
    latest = {str([of[key] for key in ("source", "part", "task", "films", "id")]): of
              for of in drawn(read_sources(sources)[0], most, seed)}  # fmt: skip
    text = "\n".join(line for question in sorted(latest.values(), key=_score) for line in _lines(question))
    with (console := Console()).pager():
        console.print(Text("".join(char if char.isprintable() or char == "\n" else "\ufffd" for char in text)))


def _lines(question: Question) -> Iterator[str]:
    yield "== {source} · {part} · step {step} · {id} · {films} film".format_map(question)
    yield f"Question:  {question['question']}"
    yield f"Reference: {question['reference'] or question['boxes'] or 'nothing'}"
    for answer in question["answers"]:
        values = {"score": answer["score"], **answer["values"], "IoU": [round(iou, 2) for *_, iou in answer["pairs"]]}
        yield f"Answer:    {answer['text'] or '(nothing)'}"
        yield "  ".join(
            ["         ", *(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items())]
        )


def _score(question: Question) -> float:
    scores = [answer["score"] for answer in question["answers"] if answer["score"] is not None]
    return fmean(scores) if scores else math.inf
