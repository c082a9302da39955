"""Questions about films with their answers, from verl's dumps and from results folders, as the viewers show them."""

import json
import random
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from recipe.cxr_grpo.results.validation import OWN, Row, read_rows, split_thinking
from reward_fns.boxes import Quad, iou_matrix, matches
from reward_fns.errors import UsageError

HIT = 0.5  # IoU from which a matched pair of boxes is a hit, as in `box_f1@0.5`
_OTHER_KEYS = {"step", "score", "acc", "reward", "advantage"}  # numbers in a dump that are no component of a reward

Answer = dict[str, Any]


@dataclass
class Question:
    """A question about a film, with the answers of one model at one step: a group of rollouts, or a single answer."""

    source: str  # name of a run, or model and data set of a results folder
    part: str  # rollouts, validation or results
    step: int | None
    id: str
    patient_id: str
    task: str
    films: str  # whose film the model saw: own, or the name of a control
    labels: list[str]
    question: str
    reference: str  # the true report; empty for grounding
    boxes: list[Quad]  # the true boxes
    image: str | None = None  # a file, where the source names it
    film: int | None = None  # place in the pictures, see `pictures.Pictures`
    lost: int = 0  # rollouts without a reward, because their scoring failed
    answers: list[Answer] = field(default_factory=list)


def read_sources(sources: Sequence[Path]) -> tuple[list[Question], set[str]]:
    """The questions in runs, dumps and results folders, and the names of metrics of which less is better.

    An answer has ``text``, ``thinking``, ``score``, ``values`` (every component or metric; None where its scorer
    failed), ``boxes``, ``pairs`` (`pairs_of`), ``model_failed``, ``scorer_failed``, in a group ``advantage``, and what
    a results folder may add: ``counts``, ``entities`` and ``explanation``. UsageError: a source holds neither.
    """
    questions: list[Question] = []
    lower: set[str] = set()
    for source in sources:
        name = source.name if [other.name for other in sources].count(source.name) == 1 else str(source)
        if scores := sorted(source.rglob("scores.jsonl")):
            for path in scores:
                described = json.loads(text) if (text := _text(path.with_name("results.json"))) else {}
                lower |= {metric for metric, higher in described.get("higher_is_better", {}).items() if not higher}
                questions += _of_results(path)
        elif dumps := _dumps(source):
            for path in dumps:
                questions += _of_dump(path, name)
        else:
            wanted = "a run with rollouts/STEP.jsonl or validation/STEP.jsonl, such a file, or a folder of evaluate"
            raise UsageError(f"{source}: nothing to look at; give {wanted} with scores.jsonl")
    _mark_scorer_failures(questions)
    return questions, lower


def drawn(questions: Sequence[Question], samples: int, seed: int) -> list[Question]:
    """As many whole samples as have at most ``samples`` answers (one at least), in the order given.

    A sample is drawn with all its steps, rollouts and films, so that they can be compared.
    """
    of_sample: dict[tuple[str, str], int] = defaultdict(int)
    for question in questions:
        of_sample[question.task, question.id] += len(question.answers)
    order = sorted(of_sample)
    random.Random(seed).shuffle(order)
    kept: set[tuple[str, str]] = set()
    for key in order:
        if kept and of_sample[key] > samples:
            break
        kept.add(key)
        samples -= of_sample[key]
    return [question for question in questions if (question.task, question.id) in kept]


def pairs_of(boxes: Sequence[Quad], reference: Sequence[Quad]) -> list[tuple[int, int, float]]:
    """Predicted box, true box and their IoU, matched as in reward ``box_soft_f1``; pairs without overlap are left out.

    >>> pairs_of([(0.5, 0.5, 1.0, 1.0), (0.0, 0.0, 0.5, 1.0)], [(0.0, 0.0, 1.0, 1.0)])
    [(1, 0, 0.5)]
    """
    ious = iou_matrix(*(np.array(side, dtype=np.float64).reshape(-1, 4) for side in (boxes, reference)))
    return [(int(i), int(j), round(float(ious[i, j]), 4)) for i, j in zip(*matches(ious), strict=True)]


def answer_of(row: Row) -> Answer:
    """An answer in one of verl's dumps, with its boxes matched."""
    thinking, text = split_thinking(row.answer)
    boxes = [box.quad for box in row.boxes()] if row.task == "grounding" else []
    values = {key: _number(value) for key, value in row.dumped.items()
              if (value is None or isinstance(value, int | float)) and key not in _OTHER_KEYS}  # fmt: skip
    return {
        "text": text,
        "thinking": thinking,
        "score": _number(row.score),
        "values": values,
        "boxes": boxes,
        "pairs": pairs_of(boxes, row.truth.get("boxes") or []),
        "model_failed": bool(row.dumped.get("model_failed")),
        "advantage": _number(row.dumped.get("advantage")),
    }


def _dumps(source: Path) -> list[Path]:
    folders = (source, source / "validation", source / "rollouts")
    paths = [source] if source.is_file() else [path for folder in folders for path in folder.glob("*.jsonl")]
    return sorted((path for path in paths if path.stem.isdigit()), key=lambda path: (path.parent, int(path.stem)))


def _of_dump(path: Path, source: str) -> list[Question]:
    groups: dict[tuple[str, str, str], Question] = {}
    for row in read_rows(path):
        # verl's uid is that of the prompt, with the number of the rollout behind it.
        key = row.films, row.id, str(row.dumped.get("uid", "")).partition("_")[0]
        labels = [*dict.fromkeys(row.truth.get("labels") or [])]
        reference, boxes = row.truth.get("report", ""), row.truth.get("boxes") or []
        about = (row.id, row.patient_id, row.task, row.films, labels, row.asked(), reference, boxes)
        group = groups.setdefault(key, Question(source, path.parent.name, int(path.stem), *about))
        group.answers.append(answer_of(row))
    size = max((len(group.answers) for group in groups.values()), default=0)
    for group in groups.values():
        group.lost = size - len(group.answers)
        scores = [answer["score"] for answer in group.answers]
        if len(scores) > 1 and None not in scores and group.part != "validation":
            # As verl's estimator grpo, which divides by the group's standard deviation; it dumps no advantages.
            mean, spread = fmean(scores), stdev(scores) + 1e-6
            for answer, score in zip(group.answers, scores, strict=True):
                if answer["advantage"] is None:
                    answer |= {"advantage": (score - mean) / spread, "advantage_computed": True}
    return [*groups.values()]


def _of_results(path: Path) -> Iterator[Question]:
    """The rows of a results folder of evaluate; the first metric of a row is its score."""
    source = "/".join(path.parts[-4:-2])
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
                boxes = row.get("boxes") or {"prediction": [], "reference": []}
                about = [row[key] for key in ("id", "patient_id", "task")]
                about += [row.get("films", OWN), row.get("labels") or [], row["question"], row.get("reference") or ""]
                values = {name: _number(value) for name, value in row["metrics"].items()}
                answer = {key: row[key] for key in ("counts", "entities", "explanation") if row.get(key)}
                answer |= {"text": row.get("answer") or row["prediction"] or "", "thinking": row.get("thinking") or ""}
                answer |= {"boxes": boxes["prediction"], "pairs": pairs_of(boxes["prediction"], boxes["reference"])}
                answer |= {"score": next(iter(values.values()), None), "values": values}
                answer |= {"model_failed": row["status"] != "ok", "advantage": None}
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise ValueError(f"{path}, line {number}: not a row of a results folder ({error!r})") from error
            of_row = (*about, boxes["reference"], row.get("image"))
            yield Question(source, "results", None, *of_row, answers=[answer])


def _mark_scorer_failures(questions: Sequence[Question]) -> None:
    """A value is missing because its scorer failed if other answers to the task have one, else it doesn't apply."""
    present: dict[tuple[str, str], set[str]] = defaultdict(set)
    for question in questions:
        for answer in question.answers:
            names = {name for name, value in answer["values"].items() if value is not None}
            present[question.source, question.task] |= names
    for question in questions:
        for answer in question.answers:
            applies = present[question.source, question.task]
            answer["values"] = {name: value for name, value in answer["values"].items() if name in applies}
            answer["scorer_failed"] = None in answer["values"].values()


def _number(value: Any) -> float | None:
    finite = isinstance(value, int | float) and abs(value) <= sys.float_info.max  # false for nan
    return round(float(value), 6) if finite else None


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""
