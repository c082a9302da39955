"""Questions about films with their answers, from verl's dumps and from results folders, as the viewers show them."""

import json
import random
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recipe.cxr_grpo.results.validation import Row, read_rows
from reward_fns.boxes import Quad, iou_matrix, matches
from reward_fns.errors import UsageError

HIT = 0.5  # IoU from which a matched pair of boxes is a hit, as in `box_f1@0.5`
_NO_COMPONENT = {"step", "score", "acc", "reward", "advantage"}  # other numbers in a dump
Question = dict[str, Any]


def read_sources(sources: Sequence[Path]) -> tuple[list[Question], set[str]]:
    """The questions in runs, dumps and results folders, and the names of metrics of which less is better.

    A question has source, part (rollouts, validation or results), step (or None), id, patient, task, films (own, or the
    name of a control), labels, question, reference (the true report, or ""), boxes (the true ones), image (a path, or
    None), lost (rollouts without a reward) and answers: one, or those of a group of rollouts.

    An answer has text, thinking, score, values (every component or metric, or None), boxes, pairs (see `pairs_of`),
    model_failed, advantage (or None), and perhaps, from a results folder, counts, explanation and entities (in
    "prediction" and in "reference", each of words and label).

    UsageError: a source holds nothing of the kind. ValueError: a row can't be read.
    """
    questions: list[Question] = []
    lower: set[str] = set()
    names = Counter(source.name for source in sources)
    for source in sources:
        found = len(questions)
        for path in sorted(source.rglob("scores.jsonl")):
            questions += _of_results(path)
            described = json.loads(path.with_name("results.json").read_text(encoding="utf-8"))
            lower |= {metric for metric, higher in described["higher_is_better"].items() if not higher}
        folders = (source, source / "validation", source / "rollouts")
        paths = [source] if source.is_file() else [path for folder in folders for path in folder.glob("*.jsonl")]
        for path in sorted((path for path in paths if path.stem.isdigit()), key=lambda path: int(path.stem)):
            questions += _of_dump(path, source.name if names[source.name] == 1 else str(source))
        if found == len(questions):
            wanted = "a run with rollouts/STEP.jsonl or validation/STEP.jsonl, such a file, or a folder of evaluate"
            raise UsageError(f"{source}: nothing to look at; give {wanted} with scores.jsonl")
    return questions, lower


def drawn(questions: Sequence[Question], most: int, seed: int) -> list[Question]:
    """Samples drawn with all their steps, rollouts and films, with at most ``most`` answers; one sample at least."""
    sizes: Counter[tuple[str, str]] = Counter()
    for question in questions:
        sizes[question["task"], question["id"]] += len(question["answers"])
    kept: set[tuple[str, str]] = set()
    for key in random.Random(seed).sample(sorted(sizes), len(sizes)):
        most -= sizes[key]
        if kept and most < 0:
            break
        kept.add(key)
    return [question for question in questions if (question["task"], question["id"]) in kept]


def pairs_of(boxes: Sequence[Quad], reference: Sequence[Quad]) -> list[tuple[int, int, float]]:
    """Predicted box, true box and their IoU, matched as in reward ``box_soft_f1``; pairs without overlap are left out.

    >>> pairs_of([(0.5, 0.5, 1.0, 1.0), (0.0, 0.0, 0.5, 1.0)], [(0.0, 0.0, 1.0, 1.0)])
    [(1, 0, 0.5)]
    """
    ious = iou_matrix(*(np.array(side, dtype=np.float64).reshape(-1, 4) for side in (boxes, reference)))
    return [(int(i), int(j), float(ious[i, j])) for i, j in zip(*matches(ious), strict=True)]


def _of_dump(path: Path, source: str) -> list[Question]:
    groups: dict[tuple[str, str, str], Question] = {}
    for row in read_rows(path):
        # verl's uid is that of the prompt, with the number of the rollout behind it.
        key = row.films, row.id, str(row.dumped.get("uid", "")).partition("_")[0]
        of_row = {"source": source, "part": path.parent.name, "step": int(path.stem), "image": None, "answers": []}
        of_row |= {"id": row.id, "patient": row.patient_id, "task": row.task, "films": row.films}
        of_row |= {"question": row.asked(), "labels": [*dict.fromkeys(row.truth.get("labels") or [])]}
        of_row |= {"reference": row.truth.get("report") or "", "boxes": row.truth.get("boxes") or []}
        groups.setdefault(key, of_row)["answers"].append(_answer(row))
    size = max((len(group["answers"]) for group in groups.values()), default=0)
    return [group | {"lost": size - len(group["answers"])} for group in groups.values()]


def _answer(row: Row) -> dict[str, Any]:
    thinking, _, text = row.answer.rpartition("</think>")
    boxes = row.quads() if row.task == "grounding" else []
    numbers = {key: _finite(value) for key, value in row.dumped.items() if isinstance(value, int | float | None)}
    answer: dict[str, Any] = {
        "text": text.strip(),
        "thinking": thinking.strip().removeprefix("<think>"),
        "boxes": boxes,
    }
    answer |= {
        "pairs": pairs_of(boxes, row.truth.get("boxes") or []),
        "model_failed": bool(numbers.get("model_failed")),
    }
    answer |= {"score": _finite(row.score), "advantage": numbers.get("advantage")}
    return answer | {"values": {key: value for key, value in numbers.items() if key not in _NO_COMPONENT}}


def _of_results(path: Path) -> Iterator[Question]:
    """The rows of a results folder of evaluate; the first metric of a row is its score."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
                question = {key: row[key] for key in ("id", "task", "films", "labels", "question", "image")}
                sides = row.get("boxes") or {"prediction": [], "reference": []}
                question |= {
                    "reference": row["reference"] or "",
                    "patient": row["patient_id"],
                    "boxes": sides["reference"],
                }
                answer = {key: row.get(key) for key in ("counts", "entities", "explanation", "thinking", "advantage")}
                answer |= {"values": {name: _finite(value) for name, value in row["metrics"].items()}}
                answer |= {"text": row["answer"] or "", "score": next(iter(answer["values"].values()), None)}
                answer |= {"model_failed": row["status"] != "ok", "boxes": sides["prediction"]}
                answer["pairs"] = pairs_of(answer["boxes"], question["boxes"])
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise ValueError(f"{path}, line {number}: not a row of a results folder ({error!r})") from error
            where = {"source": "/".join(path.parts[-4:-2]), "part": "results", "step": None}
            yield question | where | {"lost": 0, "answers": [answer]}


def _finite(value: float | None) -> float | None:
    return value if value is not None and abs(value) <= sys.float_info.max else None  # nan is not
