"""verl's dumps as rows, and the comparison of two validations of the same samples."""

import json
from dataclasses import dataclass
from pathlib import Path

from recipe.cxr_grpo.results.bootstrap import estimate, paired
from reward_fns.conventions import get_convention


@dataclass(frozen=True)
class Row:
    """One scored answer: the question, the answer, the ground truth and the score."""

    id: str
    patient_id: str
    task: str
    box_format: str
    question: str
    answer: str
    truth: dict
    score: float

    def quads(self) -> list[tuple[float, float, float, float]]:
        """The boxes in the answer, as shares of the image's width and height."""
        frame = self.truth.get("frame") or (1, 1)
        return [box.quad for box in get_convention(self.box_format).parse(self.answer, tuple(frame)).boxes]

    def asked(self) -> str:
        """The question in verl's decoded prompt: its last line that is not the assistant's turn."""
        lines = [line.strip() for line in self.question.splitlines() if line.strip() not in ("", "user", "assistant")]
        return lines[-1] if lines else ""


def read_rows(path: Path) -> list[Row]:
    """The rows of one of verl's JSONL dumps, of a validation or of a step's rollouts, in their order.

    verl dumps no ``extra_info``: sample, patient, task and box format are those in the ``ground_truth`` JSON. Raises
    ValueError if the file is missing or a row can't be read.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such dump; did the run reach this step?")
    rows = []
    with path.open(encoding="utf-8") as file:  # splitlines would also split at U+2028, which verl does not escape
        for number, line in enumerate(file, 1):
            try:
                raw = json.loads(line)
                truth = json.loads(raw["gts"])
                keys = {key: truth[key] for key in ("id", "patient_id", "task", "box_format")}
                score = float(raw["score"])
                rows.append(Row(**keys, question=raw["input"], answer=raw["output"], truth=truth, score=score))
            except (json.JSONDecodeError, RecursionError, KeyError, TypeError) as error:
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
    summary: dict[str, dict[str, dict]] = {"before": {}, "after": {}, "difference": {}}
    patients = {i: row.patient_id for i, row in before.items()}
    for task in sorted({row.task for row in before.values()}):
        scores = [{i: row.score for i, row in rows.items() if row.task == task} for rows in (before, after)]
        summary["difference"][task] = paired(scores[0], scores[1], patients)._asdict()
        for name, of_task in zip(("before", "after"), scores, strict=True):
            summary[name][task] = estimate([*of_task.values()], [patients[i] for i in of_task])._asdict()
    return summary
