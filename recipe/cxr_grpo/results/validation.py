"""verl's validation dumps: reading them, and comparing two of the same samples."""

import json
from dataclasses import dataclass
from pathlib import Path

from recipe.cxr_grpo.results.bootstrap import Estimate, estimate, paired


@dataclass(frozen=True)
class Row:
    """One validation sample: what the model was asked, what it answered and what that earned."""

    id: str
    patient_id: str
    task: str
    box_format: str
    question: str
    answer: str
    truth: dict
    score: float


def read_rows(path: Path) -> list[Row]:
    """The rows of one of verl's JSONL dumps, of a validation or of a step's rollouts, in their order.

    verl's dumps have no ``extra_info``; sample, patient, task and box format come from the ``ground_truth`` JSON, into
    which ``data_prep`` writes them.

    Raises:
        ValueError: the file is missing or a row can't be read.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such dump; did the run reach this step?")
    rows = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            raw = json.loads(line)
            truth = json.loads(raw["gts"])
            rows.append(
                Row(
                    id=truth["id"],
                    patient_id=truth["patient_id"],
                    task=truth["task"],
                    box_format=truth["box_format"],
                    question=raw["input"],
                    answer=raw["output"],
                    truth=truth,
                    score=float(raw["score"]),
                )
            )
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{path}, line {number}: not a row of one of verl's dumps ({error!r})") from error
    return rows


def read_validation(path: Path) -> dict[str, Row]:
    """The dump of one evaluation as sample id -> row. Raises ValueError as :func:`read_rows`, or if an id recurs."""
    rows: dict[str, Row] = {}
    for row in read_rows(path):
        if rows.setdefault(row.id, row) is not row:
            raise ValueError(f"{path}: sample {row.id} occurs twice")
    return rows


def compare(before: dict[str, Row], after: dict[str, Row]) -> dict[str, dict[str, dict]]:
    """``before``, ``after`` and ``difference``: task -> ``{"mean", "n", "ci95"}`` of the validation reward."""
    tasks = sorted({row.task for row in before.values()})

    def of(rows: dict[str, Row], task: str) -> Estimate:
        chosen = [row for row in rows.values() if row.task == task]
        return estimate([row.score for row in chosen], [row.patient_id for row in chosen])

    def difference(task: str) -> Estimate:
        scores = [{i: row.score for i, row in rows.items() if row.task == task} for rows in (before, after)]
        return paired(scores[0], scores[1], {i: row.patient_id for i, row in before.items()})

    return {
        "before": {task: of(before, task).as_dict() for task in tasks},
        "after": {task: of(after, task).as_dict() for task in tasks},
        "difference": {task: difference(task).as_dict() for task in tasks},
    }
