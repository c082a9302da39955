"""verl's dumps as rows, and two validations of the same samples compared, with bootstrap intervals over patients."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from recipe.cxr_grpo.results.intervals import bootstrap, interval, mean_of
from reward_fns.conventions import get_convention

RESAMPLES = 10_000
OWN = "own"  # the film that a question is about, rather than one of `films.CONTROLS`


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
    dumped: Mapping[str, Any] = field(default_factory=dict)  # all that the dump says: step, uid, every component

    @property
    def films(self) -> str:
        """Whose film the model saw: ``own``, or the name of a control (see ``films``)."""
        return self.truth.get("films", OWN)

    def quads(self) -> list[tuple[float, float, float, float]]:
        """The boxes in the answer, not in what was thought before it, as shares of the image's width and height."""
        frame, (_, _, answer) = self.truth.get("frame") or (1, 1), self.answer.rpartition("</think>")
        return [box.quad for box in get_convention(self.box_format).parse(answer, tuple(frame)).boxes]

    def asked(self) -> str:
        """The question in verl's decoded prompt: its last line that is not the assistant's turn."""
        lines = [line.strip() for line in self.question.splitlines() if line.strip() not in ("", "user", "assistant")]
        return lines[-1] if lines else ""


def read_rows(path: Path) -> list[Row]:
    """The rows of one of verl's JSONL dumps, in their order; ValueError if it is missing or a row can't be read.

    verl dumps no ``extra_info``: sample, patient, task and box format are those in the ``ground_truth`` JSON.
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
                keys |= {"question": raw["input"], "answer": raw["output"], "score": float(raw["score"])}
                rows.append(Row(**keys, truth=truth, dumped=raw))
            except (json.JSONDecodeError, RecursionError, KeyError, TypeError) as error:
                raise ValueError(f"{path}, line {number}: not a row of one of verl's dumps ({error!r})") from error
    return rows


def read_validation(path: Path) -> dict[str, dict[str, Row]]:
    """The dump of one evaluation as films (``own`` or a control) -> sample id -> row.

    Raises ValueError as :func:`read_rows`, or if an id recurs.
    """
    films: dict[str, dict[str, Row]] = {OWN: {}}
    for row in read_rows(path):
        if films.setdefault(row.films, {}).setdefault(row.id, row) is not row:
            raise ValueError(f"{path}: sample {row.id} occurs twice")
    return films


def scored_in_both(
    before: Mapping[str, dict[str, Row]], after: Mapping[str, dict[str, Row]]
) -> tuple[dict[str, dict[str, Row]], dict[str, dict[str, Row]], int]:
    """Two evaluations without the samples that one of them has no score for, and the number of rows left out.

    verl dumps no row whose scoring failed, so that it is missing in one evaluation only. A sample without its own film
    in one of them is left out of the controls too.
    """
    own = before[OWN].keys() & after[OWN].keys()
    kept = {films: own & before[films].keys() & after[films].keys() for films in before.keys() & after.keys()}
    parts = [{films: {i: rows[films][i] for i in rows[films] if i in ids} for films, ids in kept.items()}
             for rows in (before, after)]  # fmt: skip
    left_out = sum(len(before[films].keys() | after[films].keys()) - len(ids) for films, ids in kept.items())
    return parts[0], parts[1], left_out


class Estimate(NamedTuple):
    """A mean over ``n`` samples with its 95 % percentile interval."""

    mean: float
    n: int
    ci95: tuple[float, float]


def estimate(values: Sequence[float], patients: Sequence[str], seed: int = 0) -> Estimate:
    """Mean of ``values`` with a cluster bootstrap over ``patients``: whole patients are drawn with replacement.

    Films of one patient are not independent. Raises ValueError without values, for one that is not finite, or if there
    is not one patient for each.
    """
    if len(values) != len(patients) or not len(values):
        raise ValueError(f"need values, each with its patient; got {len(values)} values, {len(patients)} patients")
    numbers = np.asarray(values, dtype=float)
    if not np.isfinite(numbers).all():
        raise ValueError("a reward is NaN or infinite")
    mean, draws = bootstrap({"": mean_of(numbers)}, patients, RESAMPLES, seed)[""]
    return Estimate(mean, len(numbers), interval(draws))


def paired(before: Mapping[str, float], after: Mapping[str, float], patients: Mapping[str, str]) -> Estimate:
    """Mean of ``after - before`` (sample id -> reward; the same ids), with its paired bootstrap interval."""
    if before.keys() != after.keys():
        missing = sorted(before.keys() ^ after.keys())
        raise ValueError(f"{len(missing)} samples are in only one of the two evaluations, e.g. {missing[0]}")
    ids = sorted(before)
    return estimate([after[i] - before[i] for i in ids], [patients[i] for i in ids])


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
