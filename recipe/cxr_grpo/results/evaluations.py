"""Results folders that ``evaluate`` wrote, somebody else's included: read, pooled over seeds, and verified."""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from recipe.cxr_grpo.results.average_precision import Matches, coco, of_runs
from recipe.cxr_grpo.results.intervals import OfWeights, Statistic, mean_of
from recipe.cxr_grpo.results.validation import OWN
from reward_fns.boxes import Box
from reward_fns.errors import UsageError
from reward_fns.rewards.chexbert_f1 import INDICES


class Evaluation(NamedTuple):
    """A results folder: results.json, scores.jsonl as rows and as numbers, its SHA-256, and a hash of the gold.

    ``numbers`` has a row per sample: patient, metrics (NaN where one does not apply) and counts of CheXbert's labels.
    ``boxes`` is what `coco` returns for the rows, None if they have no boxes.
    """

    folder: Path
    facts: dict[str, Any]
    rows: list[dict[str, Any]]
    numbers: pd.DataFrame
    boxes: tuple[dict[str, float | None], Matches] | None
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
        numbers = pd.DataFrame([row["metrics"] for row in rows], [row["id"] + "" for row in rows], dtype=float)
        numbers["patient"] = [row["patient_id"] + "" for row in rows]
        if any(row.get("counts", {}).get("chexbert") for row in rows):
            counts = [row["counts"]["chexbert"] for row in rows]
            labels = np.array([[each["prediction"], each["reference"]] for each in counts])
            numbers[_counts(range(14))] = np.hstack([labels.prod(axis=1), labels.sum(axis=1)])
        _ = [facts[key].strip() for key in ("model", "data_set", "task", "films")], rows[0]
        _ = [facts[key].items() for key in ("metrics", "hashes", "higher_is_better")]
        boxes = [(row.get("boxes") or {}).get("reference") for row in rows]
        _ = [Box(*quad) for row in rows for side in (row.get("boxes") or {}).values() for quad in side]
        found = coco(rows) if rows[0].get("boxes") else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"{folder}: not as `evaluate` writes it ({error!r})") from error
    gold = [str((row["id"], row["patient_id"], row.get("reference"), of)) for row, of in zip(rows, boxes, strict=True)]
    identity = hashlib.sha256("\n".join(sorted(gold)).encode(errors="surrogatepass")).hexdigest()
    return Evaluation(folder, facts, rows, numbers, found, hashlib.sha256(text).hexdigest(), identity)


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
        if (unknown := seed not in gold) or seeds.count(seed) > 1 or found.numbers.index.has_duplicates:
            fault = "has no results on the patients' own films" if unknown else "or one of its samples is there twice"
            raise UsageError(f"{found.folder}: seed {seed} of {found.facts['model']} {fault}")
    table = pd.concat([found.numbers for found in arms[films]], keys=[gold[seed] for seed in seeds])
    patients = table.pop("patient").groupby(level=[0, 1]).first()
    return table.groupby(level=[0, 1]).mean().assign(patient=[f"{key[0]} {name}" for key, name in patients.items()])


def ranked(arms: Arms, films: str, kept: pd.Index, asked: pd.Index) -> dict[str, OfWeights]:
    """COCO's AP in draws of the samples of index ``asked`` of `pooled`, over those of ``kept``: the mean over seeds.

    Seeds that have none of the samples are left out. Empty if there are no boxes, or a seed has no reference box.
    """
    gold, runs = {found.facts.get("seed"): found.gold for found in arms[OWN]}, []
    for found in arms.get(films, arms[OWN]):
        keys = pd.MultiIndex.from_product([[gold[found.facts.get("seed")]], found.numbers.index])
        places = np.where(keys.isin(kept), asked.get_indexer(keys), -1)
        if (there := places >= 0).any():
            if not found.boxes or not found.boxes[1].references[there].any():
                return {}
            runs.append((found.boxes[1], places))
    return {"map50_coco": partial(of_runs, runs, 1), "map_coco": partial(of_runs, runs, 10)} if runs else {}


def _counts(labels: Sequence[int]) -> list[str]:
    return [f"{part} {label}" for part in ("hits", "positives") for label in labels]


def statistics(numbers: pd.DataFrame) -> dict[str, Statistic]:
    """Every metric that the numbers suffice for; a sample without numbers adds nothing to it."""
    counts = _counts(range(14))
    found = {
        name: mean_of(numbers[name].to_numpy()) for name in numbers.columns.difference([*counts, "patient"], sort=False)
    }
    if "radcliq" in found:
        found["radcliq_inverse"] = found["radcliq"]._replace(kind="inverse")
    for size, labels in ((14, range(14)), (5, INDICES["top5"])) if counts[0] in numbers else ():
        columns = numbers[_counts(labels)].fillna(0).to_numpy()
        found |= {f"chexbert_{kind}_{size}": Statistic(columns, kind) for kind in ("micro", "macro")}
    return {name: of for name, of in found.items() if of.columns.any()}


def verify(evaluation: Evaluation) -> Iterator[tuple[str, Any, Any, bool]]:
    """What results.json states, what the files beside it give (None: they can't tell), and whether both agree."""
    facts, rows = evaluation.facts, evaluation.rows
    given = (evaluation.folder / "predictions.jsonl").read_bytes()
    read = [row for row in map(json.loads, given.splitlines()) if isinstance(row, dict)]
    answers: dict[Any, Any] = {(str(row.get("id")), str(row.get("films", OWN))): row.get("prediction") for row in read}
    checks: list[tuple[str, Any, Any]] = [
        ("SHA-256 of data", facts["hashes"].get("data"), None),
        ("SHA-256 of predictions", facts["hashes"].get("predictions"), hashlib.sha256(given).hexdigest()),
        ("SHA-256 of scores", facts["hashes"].get("scores"), evaluation.digest),
        ("samples", facts.get("samples"), len(rows)),
        ("ids that recur", 0, int(evaluation.numbers.index.duplicated().sum())),
    ]
    checks += [
        (name, facts.get(name), sum(row.get("status") == name for row in rows)) for name in ("failed", "missing")
    ]
    checks += [
        (f"rows of another {key}", 0, sum(row.get(key) != facts[key] for row in rows)) for key in ("task", "films")
    ]
    stated = [(row.get("prediction"), answers.get((row["id"], row.get("films")))) for row in rows]
    checks.append(("predictions other than given", 0, sum(one != other for one, other in stated)))
    checks.append(("without a prediction", facts.get("missing"), sum(one is None for one, _ in stated)))
    values: Any = {name: float(of.of(of.columns.sum(axis=0))) for name, of in statistics(evaluation.numbers).items()}
    values |= evaluation.boxes[0] if evaluation.boxes else {}
    checks += [(name, value, values.get(name)) for name, value in facts["metrics"].items()]
    for what, said, found in checks:
        close = isinstance(said, float) and isinstance(found, float) and math.isclose(said, found, abs_tol=1e-6)
        yield what, said, found, found is None or close or said == found
