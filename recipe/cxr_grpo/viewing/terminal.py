"""Answers in the terminal of a login node: a question at a time, worst first."""

import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean

from rich.console import Console, Group
from rich.panel import Panel
from rich.text import Text

from recipe.cxr_grpo.viewing.samples import HIT, Answer, Question, drawn, read_sources

FIRST = 20  # questions that are printed where nobody can answer, as in a pipe
_HELP = "Enter next, p previous, /WORDS search, b best first, w worst first, t thinking, q quit: "


def view(sources: Sequence[Path], samples: int, seed: int) -> None:
    """Show the questions of the sources until the user quits; without a terminal to ask, the worst of them."""
    console = Console()
    # Of each film the latest step, as on the page.
    latest = {(q.source, q.part, q.task, q.films, q.id): q for q in drawn(read_sources(sources)[0], samples, seed)}
    everything = sorted(latest.values(), key=_score)
    if not sys.stdin.isatty():
        console.print(*map(panel, everything[:FIRST]))
        return
    shown, place, thinking = everything, 0, False
    while True:
        place = max(min(place, len(shown) - 1), 0)
        console.print(panel(shown[place], thinking) if shown else "No question has these words.")
        try:
            said = input(f"{place + bool(shown)} of {len(shown)}. {_HELP}").strip()
        except EOFError:
            return
        if said == "q":
            return
        if said.startswith("/"):
            words = said[1:].casefold()
            shown, place = [question for question in everything if words in str(question).casefold()], 0
        elif said in ("b", "w"):
            shown, place = sorted(shown, key=_score, reverse=said == "b"), 0
        elif said == "t":
            thinking = not thinking
        else:
            place += -1 if said == "p" else 1


def panel(question: Question, thinking: bool = False) -> Panel:
    """A question with its reference and answers."""
    where = [question.source, question.part, f"step {question.step}" * (question.step is not None), question.id]
    title = " · ".join(filter(None, [*where, f"{question.films} film" * (question.films != "own")]))
    lines = [safe(question.question, "bold")]
    lines += [safe(f"Reference: {question.reference or _boxes(question.boxes)}", "green")]
    lines += [line for answer in question.answers for line in _lines(answer, thinking)]
    if question.lost:
        lines.append(safe(f"{question.lost} rollouts have no reward: their scoring failed", "red"))
    return Panel(Group(*lines), title=safe(title))


def safe(text: str, style: str = "") -> Text:
    """A text without what the terminal, or rich, would take for a command.

    >>> safe("[bold]a\\x1b[2J").plain
    '[bold]a�[2J'
    """
    return Text("".join(char if char.isprintable() or char == "\n" else "\ufffd" for char in text), style)


def _lines(answer: Answer, thinking: bool) -> Iterator[Text]:
    facts = [f"score {answer['score']:.3f}" if answer["score"] is not None else "no score"]
    facts += [f"advantage {answer['advantage']:+.2f}"] if answer["advantage"] is not None else []
    facts += [
        f"{name} {'failed' if value is None else format(value, '.3g')}" for name, value in answer["values"].items()
    ]
    if thinking and answer["thinking"]:
        yield safe(answer["thinking"], "dim italic")
    yield safe(answer["text"] or "(no answer)", "red" if answer["model_failed"] else "")
    if answer["pairs"]:
        ious = ", ".join(f"{iou:.2f} {'hit' if iou >= HIT else 'too little'}" for _, _, iou in answer["pairs"])
        facts.append(f"IoU {ious}")
    yield safe("  " + ", ".join(facts), "dim")


def _boxes(boxes: Sequence[Sequence[float]]) -> str:
    return " and ".join(str([round(side, 2) for side in quad]) for quad in boxes) or "nothing"


def _score(question: Question) -> float:
    scores = [answer["score"] for answer in question.answers if answer["score"] is not None]
    return fmean(scores) if scores else math.inf
