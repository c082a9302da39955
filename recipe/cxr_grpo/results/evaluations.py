"""Results folders that ``evaluate`` wrote, somebody else's included: read, pooled over seeds, and verified."""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Annotated, Literal, NamedTuple

import numpy as np
from annotated_types import Len
from pydantic import BaseModel, FiniteFloat

from recipe.cxr_grpo.results.intervals import Statistic, mean_of
from recipe.cxr_grpo.results.validation import OWN
from reward_fns.errors import UsageError

_TOP_5 = [1, 4, 5, 7, 9]  # Cardiomegaly, Edema, Consolidation, Atelectasis, Pleural Effusion


class Facts(BaseModel):
    """What is read of results.json."""

    model: str
    data_set: str
    task: str
    films: str
    seed: int | None = None
    samples: int
    failed: int
    missing: int
    metrics: dict[str, FiniteFloat | None]
    higher_is_better: dict[str, bool]
    hashes: dict[str, str]


class Labels(BaseModel):
    """CheXbert's 14 observations in a prediction and its reference: 1 is positive or uncertain."""

    prediction: Annotated[list[Literal[0, 1]], Len(14, 14)]
    reference: Annotated[list[Literal[0, 1]], Len(14, 14)]


class Counts(BaseModel):
    """What metrics of a whole set are computed from."""

    chexbert: Labels | None = None


class Score(BaseModel):
    """What is read of a row of scores.jsonl."""

    id: str
    patient_id: str
    task: str
    films: str
    labels: list[str] = []
    n_boxes: int | None = None
    prediction: str | None
    reference: str | None = None
    status: Literal["ok", "failed", "missing"]
    metrics: dict[str, FiniteFloat | None]
    counts: Counts = Counts()


Samples = Mapping[tuple[str, str], Sequence[Score]]
"""(data, sample id) -> the sample's scores, one of each seed."""


class Evaluation(NamedTuple):
    """One results folder, its scores with the SHA-256 of their file, and a hash of ids, patients and gold."""

    folder: Path
    facts: Facts
    scores: list[Score]
    digest: str
    data: str


Arms = dict[str, list[Evaluation]]


def read_evaluations(paths: Iterable[Path]) -> list[Evaluation]:
    """The results folders at or below ``paths``, in their order and then by name, parsed as JSON only.

    UsageError: there are none, or one can't be read.
    """
    folders = {found.parent: None for path in paths for found in sorted(path.rglob("results.json"))}
    if not folders:
        raise UsageError(f"no results.json in {', '.join(map(str, paths))}; `evaluate` writes such folders")
    return [_read(folder) for folder in folders]


def _read(folder: Path) -> Evaluation:
    try:
        facts = Facts.model_validate_json((folder / "results.json").read_bytes())
        text = (folder / "scores.jsonl").read_bytes()
        scores = [Score.model_validate_json(line) for line in text.splitlines()]
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder}: not as `evaluate` writes it: {error}") from error
    gold = sorted(str((row.id, row.patient_id, row.labels, row.n_boxes, row.reference)) for row in scores)
    return Evaluation(folder, facts, scores, _sha256(text), _sha256("\n".join(gold).encode(errors="surrogatepass")))


def _sha256(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def grouped(evaluations: Iterable[Evaluation]) -> dict[tuple[str, str], dict[str, Arms]]:
    """(task, data set) -> model -> films -> evaluations, one of each seed; all in the order given."""
    found: dict[tuple[str, str], dict[str, Arms]] = {}
    for evaluation in evaluations:
        facts = evaluation.facts
        arms = found.setdefault((facts.task, facts.data_set), {}).setdefault(facts.model, {})
        arms.setdefault(facts.films, []).append(evaluation)
    return found


def pooled(evaluations: Sequence[Evaluation], own: Sequence[Evaluation]) -> Samples:
    """The scores of one model's seeds by sample; ``own`` are its evaluations on the patients' own films.

    Seeds on the same data give each sample several scores. Seeds with data of their own, such as the quickstart's,
    give more samples. UsageError: a seed occurs twice, or without the own films.
    """
    data = {evaluation.facts.seed: evaluation.data for evaluation in own}
    found: dict[tuple[str, str], list[Score]] = {}
    for place, (folder, facts, scores, *_) in enumerate(evaluations):
        if facts.seed not in data:
            raise UsageError(f"{folder}: {facts.model} has no results of this seed on the patients' own films")
        if facts.seed in (other.facts.seed for other in evaluations[:place]):
            raise UsageError(f"{folder}: a second results folder of seed {facts.seed} of {facts.model}")
        for row in scores:
            found.setdefault((data[facts.seed], row.id), []).append(row)
    return found


def statistics(samples: Samples, keys: Sequence[tuple[str, str]]) -> dict[str, Statistic]:
    """Every metric of the samples that their scores suffice for; those of ``keys`` without scores add nothing.

    A sample's value is its mean over seeds first, and CheXbert's F1 is that of the mean counts.
    """
    found = {}
    for name in {name: None for scores in samples.values() for row in scores for name in row.metrics}:
        of_samples = ([row.metrics.get(name) for row in samples.get(key, ())] for key in keys)
        known = ([value for value in values if value is not None] for values in of_samples)
        found[name] = mean_of([fmean(values) if values else math.nan for values in known])
    if "radcliq" in found:
        found["radcliq_inverse"] = found["radcliq"]._replace(kind="inverse")
    counts = np.zeros((2, len(keys), 14))
    for place, key in enumerate(keys):
        for row in (row for row in samples.get(key, ()) if row.counts.chexbert):
            labels = np.array([row.counts.chexbert.prediction, row.counts.chexbert.reference])
            counts[:, place] += np.stack([labels.prod(axis=0), labels.sum(axis=0)]) / len(samples[key])
    if any(row.counts.chexbert for scores in samples.values() for row in scores):
        for size, chosen in ((14, slice(None)), (5, _TOP_5)):
            for kind in ("micro", "macro"):
                columns = np.hstack([*counts[..., chosen]])
                found[f"chexbert_{kind}_{size}"] = Statistic(columns, len(samples), kind)
    return {name: statistic for name, statistic in found.items() if statistic.n}


def verify(evaluation: Evaluation) -> Iterator[tuple[str, object, object, bool]]:
    """What results.json states, what the files beside it give (None: it can't be told from them), and if both agree."""
    folder, facts, scores, digest, data = evaluation
    given = (folder / "predictions.jsonl").read_bytes()
    answers = {row["id"]: row["prediction"] for row in map(json.loads, given.splitlines())
               if row.get("films", OWN) == facts.films}  # fmt: skip
    keys = [(data, row.id) for row in scores]
    checks: list[tuple[str, object, object]] = [
        ("SHA-256 of data", facts.hashes.get("data"), None),
        ("SHA-256 of predictions", facts.hashes.get("predictions"), _sha256(given)),
        ("SHA-256 of scores", facts.hashes.get("scores"), digest),
        ("samples", facts.samples, len(scores)),
        ("failed", facts.failed, sum(row.status == "failed" for row in scores)),
        ("missing", facts.missing, sum(row.status == "missing" for row in scores)),
        ("missing without a prediction", facts.missing, sum(row.prediction is None for row in scores)),
        ("ids that recur", 0, len(keys) - len({*keys})),
        ("rows of another task", 0, sum(row.task != facts.task for row in scores)),
        ("rows on other films", 0, sum(row.films != facts.films for row in scores)),
        ("predictions other than given", 0, sum(row.prediction != answers.get(row.id) for row in scores)),
    ]
    found = statistics({key: [row] for key, row in zip(keys, scores, strict=True)}, keys)
    values = {name: float(statistic.of(statistic.columns.sum(axis=0))) for name, statistic in found.items()}
    checks += [(name, stated, values.get(name)) for name, stated in facts.metrics.items()]
    for what, stated, recomputed in checks:
        numbers = isinstance(stated, float) and isinstance(recomputed, float)
        close = numbers and math.isclose(stated, recomputed, rel_tol=0, abs_tol=1e-6)
        yield what, stated, recomputed, recomputed is None or close or stated == recomputed
