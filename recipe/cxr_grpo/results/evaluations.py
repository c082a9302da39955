"""Results folders that ``evaluate`` wrote, somebody else's included: read, pooled over seeds, and verified."""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from recipe.cxr_grpo.results.intervals import Statistic, mean_of
from recipe.cxr_grpo.results.validation import OWN
from reward_fns.errors import UsageError

_TOP_5 = [1, 4, 5, 7, 9]  # of CheXbert's 14: Cardiomegaly, Edema, Consolidation, Atelectasis, Pleural Effusion


class Evaluation(NamedTuple):
    """A results folder: results.json, scores.jsonl as rows and as numbers, its SHA-256, and a hash of the gold.

    ``numbers`` has a row per sample: patient, metrics (NaN where one does not apply) and counts of CheXbert's labels.
    """

    folder: Path
    facts: dict[str, Any]
    rows: list[dict[str, Any]]
    numbers: pd.DataFrame
    digest: str
    gold: str


Arms = dict[str, list[Evaluation]]  # films -> one model's evaluations, one of each seed


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
        facts = json.loads((folder / "results.json").read_bytes())
        text = (folder / "scores.jsonl").read_bytes()
        rows = [json.loads(line) for line in text.splitlines()]
        numbers = pd.DataFrame([row["metrics"] for row in rows], dtype=float)
        if rows[0].get("counts", {}).get("chexbert"):
            labels = np.array([[row["counts"]["chexbert"][side] for side in ("prediction", "reference")] for row in rows])
            numbers[_counts(range(14))] = np.hstack([labels.prod(axis=1), labels.sum(axis=1)])
        numbers.insert(0, "patient", [row["patient_id"] + "" for row in rows])
        numbers.index = pd.Index([row["id"] + "" for row in rows])
        for key, kind in (("metrics", dict), ("hashes", dict), ("higher_is_better", dict), ("model", str), ("films", str),
                          ("data_set", str), ("task", str)):
            if not isinstance(facts[key], kind):
                raise TypeError(f"{key} is {facts[key]!r}")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"{folder}: not as `evaluate` writes it ({error!r})") from error
    gold = sorted(str([row.get(key) for key in ("id", "patient_id", "labels", "n_boxes", "reference")]) for row in rows)
    return Evaluation(folder, facts, rows, numbers, _sha256(text), _sha256("\n".join(gold).encode(errors="surrogatepass")))


def _sha256(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def grouped(evaluations: Iterable[Evaluation]) -> dict[tuple[str, str], dict[str, Arms]]:
    """(task, data set) -> model -> films -> evaluations, one of each seed; all in the order given."""
    found: dict[tuple[str, str], dict[str, Arms]] = {}
    for evaluation in evaluations:
        task, data_set, model, films = (evaluation.facts[key] for key in ("task", "data_set", "model", "films"))
        found.setdefault((task, data_set), {}).setdefault(model, {}).setdefault(films, []).append(evaluation)
    return found


def pooled(arms: Arms, films: str = OWN) -> pd.DataFrame:
    """The numbers of one model, a row per sample, each the mean over seeds; the index is (gold, id).

    Seeds on the same data are averaged; seeds with data of their own, such as the quickstart's, give more samples.
    UsageError: a seed occurs twice, or without the patients' own films.
    """
    gold = {found.facts.get("seed"): found.gold for found in arms.get(OWN, ())}
    seeds = [found.facts.get("seed") for found in arms[films]]
    for found, seed in zip(arms[films], seeds, strict=True):
        if seed not in gold or seeds.count(seed) > 1:
            fault = "is there twice" if seed in gold else "has no results on the patients' own films"
            raise UsageError(f"{found.folder}: seed {seed} of {found.facts['model']} {fault}")
    table = pd.concat([found.numbers for found in arms[films]], keys=[gold[seed] for seed in seeds])
    patients = table.pop("patient").groupby(level=[0, 1]).first()
    return table.groupby(level=[0, 1]).mean().assign(patient=[f"{key[0]} {name}" for key, name in patients.items()])


def _counts(labels: Sequence[int]) -> list[str]:
    return [f"{part} {label}" for part in ("hits", "positives") for label in labels]


def statistics(numbers: pd.DataFrame) -> dict[str, Statistic]:
    """Every metric that the numbers suffice for; a sample without numbers adds nothing to it."""
    counts = _counts(range(14))
    found = {name: mean_of(numbers[name].to_numpy()) for name in numbers.columns.difference([*counts, "patient"], sort=False)}
    if "radcliq" in found:
        found["radcliq_inverse"] = found["radcliq"]._replace(kind="inverse")
    for size, labels in ((14, range(14)), (5, _TOP_5)) if counts[0] in numbers else ():
        columns = numbers[_counts(labels)].fillna(0).to_numpy()
        found |= {f"chexbert_{kind}_{size}": Statistic(columns, kind) for kind in ("micro", "macro")}
    return {name: of for name, of in found.items() if of.columns.any()}


def verify(evaluation: Evaluation) -> Iterator[tuple[str, Any, Any, bool]]:
    """What results.json states, what the files beside it give (None: they can't tell), and whether both agree."""
    facts, rows = evaluation.facts, evaluation.rows
    given = (evaluation.folder / "predictions.jsonl").read_bytes()
    answers = {(row.get("id"), row.get("films", OWN)): row.get("prediction") for row in map(json.loads, given.splitlines())}
    checks: list[tuple[str, Any, Any]] = [
        ("SHA-256 of data", facts["hashes"].get("data"), None),
        ("SHA-256 of predictions", facts["hashes"].get("predictions"), _sha256(given)),
        ("SHA-256 of scores", facts["hashes"].get("scores"), evaluation.digest),
        ("samples", facts.get("samples"), len(rows)),
        ("failed", facts.get("failed"), sum(row.get("status") == "failed" for row in rows)),
        ("missing", facts.get("missing"), sum(row.get("status") == "missing" for row in rows)),
        ("without a prediction", facts.get("missing"), sum(row.get("prediction") is None for row in rows)),
        ("ids that recur", 0, int(evaluation.numbers.index.duplicated().sum())),
        *((f"rows of another {key}", 0, sum(row.get(key) != facts[key] for row in rows)) for key in ("task", "films")),
        ("predictions other than given", 0,
         sum(row.get("prediction") != answers.get((row["id"], row.get("films"))) for row in rows)),
    ]  # fmt: skip
    values = {name: float(of.of(of.columns.sum(axis=0))) for name, of in statistics(evaluation.numbers).items()}
    checks += [(name, stated, values.get(name)) for name, stated in facts["metrics"].items()]
    for what, stated, found in checks:
        close = isinstance(stated, float) and isinstance(found, float) and math.isclose(stated, found, abs_tol=1e-6)
        yield what, stated, found, found is None or close or stated == found
