"""The paper's tables from results folders: values with intervals, tests and controls, and the printed numbers."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from operator import itemgetter
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd
import yaml

from recipe.cxr_grpo.results.evaluations import Arms, Evaluation, grouped, pooled, ranked, statistics
from recipe.cxr_grpo.results.intervals import bootstrap, holm, interval
from recipe.cxr_grpo.results.validation import OWN
from reward_fns.errors import UsageError

PAPER: Mapping[str, Any] = yaml.safe_load((resources.files(__package__) / "paper.yaml").read_text())
RIGHT = 0.5  # a grounding answer that earns this much is right: the threshold of AP@0.5
ESCAPES = {
    "md": lambda text: re.sub(r"([\\`*_\[\]<>|~&$])", r"\\\1", " ".join(text.split())),
    "tex": lambda text: " ".join(text.split()).translate(str.maketrans(PAPER["latex"])),
}
"""Format -> what makes any text harmless there."""
Record = dict[str, Any]


def measure(evaluations: Sequence[Evaluation], table: str, baseline: str | None, resamples: int) -> list[Record]:
    """The numbers of a table: one record with the fields of paper.yaml per data set, model, films and metric.

    UsageError: no evaluation is of the table's task, the baseline is not among the models, models of a data set have
    other samples, or one lacks results on the patients' own films.
    """
    wanted = PAPER["tables"][table]
    data_sets = {data_set: of for (task, data_set), of in grouped(evaluations).items() if task == wanted["task"]}
    if baseline not in (None, *(names := dict.fromkeys(model for models in data_sets.values() for model in models))):
        raise UsageError(f"--baseline {baseline}: the models of table {table} are {', '.join(names)}")
    rows = [row for seed, (data_set, models) in enumerate(data_sets.items())
            for row in _of_data_set(data_set, models, baseline, resamples, seed)]  # fmt: skip
    tested = [row for row in rows if "p" in row]
    for row, p_holm in zip(tested, holm([row["p"] for row in tested]), strict=True):
        row["p_holm"] = float(p_holm)
    printed = {(_plain(model), *column): value for model, values in wanted["rows"].items()
               for column, value in zip(wanted["columns"].values(), values, strict=True)}  # fmt: skip
    for row in rows:
        for name in (name for name in row if name.startswith(("value", "change"))):
            row[name] = row[name] * PAPER["metrics"].get(row["metric"], [None, 1])[1]
        paper = printed.get((_plain(row["model"]), row["metric"], row["data_set"]))
        if row["films"] == OWN and paper is not None:
            row |= {"paper": paper, "from_paper": row["value"] - paper}
    place = itemgetter("data_set", "films", "metric")
    of_baseline = {place(row): row for row in rows if row["model"] == baseline and row["films"] != OWN}
    for row in (row for row in rows if row["model"] != baseline and "change" in row):
        if "change" in (other := of_baseline.get(place(row), {})):
            row |= _spread("growth", row["change"] - other["change"], row["change_draws"] - other["change_draws"])
    return rows


def _plain(model: str) -> str:
    """A model's name without case and punctuation: radvlm-rl is the paper's RadVLM+RL."""
    return re.sub(r"[\W_]", "", model.casefold())


def _of_data_set(
    data_set: str, models: Mapping[str, Arms], baseline: str | None, resamples: int, seed: int
) -> Iterator[Record]:
    pools = {(model, films): pooled(arms, films) for model, arms in models.items() for films in arms}
    asked = pools[next(iter(models)), OWN]
    for (model, films), pool in [*pools.items()]:
        if films != OWN:
            pools[model, f"as {films}"] = pools[model, OWN].reindex(pool.index)
        elif differ := {*pool.index} ^ {*asked.index}:
            raise UsageError(f"{model} has other samples of {data_set} than {next(iter(models))}, "
                             f"e.g. {min(differ)[1]}; evaluate both on the same files")  # fmt: skip
    of = {(*key, metric): each for key, pool in pools.items()
          for found in (statistics(pool.reindex(asked.index)), ranked(models[key[0]], key[1], pool.index, asked.index))
          for metric, each in found.items()}  # fmt: skip
    found = bootstrap(of, asked["patient"], resamples, seed)
    for model, films in ((model, films) for model, arms in models.items() for films in arms):
        runs = models[model][films]
        facts, pool = runs[0].facts, pools[model, films]
        fared = Counter(row.get("status") for run in runs for row in run.rows)
        about = {"data_set": data_set, "model": model, "films": films, "seeds": len(runs), "answers": fared.total()}
        about |= {"failed": fared["failed"], "missing": fared["missing"]}
        about |= {"scores_sha256": " ".join(run.digest for run in runs)}
        for metric in dict.fromkeys((*PAPER["metrics"], *facts["metrics"])):
            key, higher = (model, films, metric), facts["higher_is_better"].get(metric, True)
            row: Record = about | {"metric": metric, "higher": higher}
            if key in of:
                row |= _spread("value", *found[key]) | {"samples": int(pool.get(metric, pool["patient"]).count())}
            elif all(run.facts["metrics"].get(metric) is not None for run in runs):
                row["value"] = fmean(run.facts["metrics"][metric] for run in runs)
            first, second = (key, (baseline, OWN, metric)) if films == OWN else ((model, f"as {films}", metric), key)
            if first in of and second in of and first != second:
                draws = found[first][1] - found[second][1]
                row |= _spread("change", found[first][0] - found[second][0], draws)
                if films == OWN:
                    row |= {"against": baseline, "p": p_value(row["change"], draws)}
                elif metric in pool and higher is not None:
                    row |= _dependent(pools[first[:2]][metric], pool[metric], facts["task"] == "grounding", higher)
            if "value" in row:
                yield row


def p_value(change: float, draws: np.ndarray) -> float:
    """Two-sided p of a change by its bootstrap's standard error and the normal distribution."""
    error = float(np.nanstd(draws))
    return math.erfc(abs(change) / error / math.sqrt(2)) if error > 1e-12 else float(abs(change) < 1e-12)


def _spread(name: str, value: float, draws: np.ndarray) -> Record:
    low, high = interval(draws)
    return {name: value, f"{name}_low": low, f"{name}_high": high, f"{name}_draws": draws}


def _dependent(own: pd.Series, control: pd.Series, boxes: bool, higher: bool) -> Record:
    """How many samples are right on the own film and wrong on the control, or earn more there; and the reverse."""
    marked = _marks(own, control, boxes, higher)
    return {"film_dependent": int((marked > 0).sum()), "reverse": int((marked < 0).sum())}


def _marks(own: pd.Series, control: pd.Series, boxes: bool, higher: bool) -> pd.Series:
    """1 for a sample that is right on the own film only, or better there; -1 for the reverse; of those in both."""
    both = pd.concat({"own": own, "control": control}, axis=1, join="inner").dropna()
    value = (both >= RIGHT).astype(int) if boxes else both * (1 if higher else -1)
    return np.sign(value["own"] - value["control"]).astype(int)


def film_dependent(evaluations: Sequence[Evaluation]) -> pd.DataFrame:
    """One row per data set, model, control and sample: a metric on both films, and the mark of `_marks`.

    The metric is the first of paper.yaml that the results have. Seeds on the same data are averaged first; ``gold``, a
    hash of questions and references, tells samples of other data apart.
    """
    rows = []
    for (task, data_set), models in grouped(evaluations).items():
        for model, arms in models.items():
            for films in (films for films in arms if films != OWN):
                pools, facts = [pooled(arms), pooled(arms, films)], arms[films][0].facts
                better = {name: facts["higher_is_better"].get(name, True) for name in PAPER["metrics"]}
                metric = next(n for n in better if better[n] is not None and all(n in pool for pool in pools))
                own, control = (pool[metric] for pool in pools)
                marks = _marks(own, control, task == "grounding", better[metric])
                gold, names = zip(*marks.index, strict=True)
                about = {"data_set": data_set, "model": model, "films": films, "gold": gold, "id": names}
                about |= {"metric": metric, "own": own[marks.index].array, "control": control[marks.index].array}
                rows.append(pd.DataFrame(about | {"film_dependent": marks.array}))
    return pd.concat(rows) if rows else pd.DataFrame()


def make(
    evaluations: Sequence[Evaluation], table: str, baseline: str | None, resamples: int, command: str
) -> dict[str, str]:
    """A table by format, csv, md and tex (by the template tables.txt); errors as `measure`."""
    from jinja2 import Environment, StrictUndefined

    rows, wanted = measure(evaluations, table, baseline, resamples), PAPER["tables"][table]
    facts = {
        "rows": rows, "wanted": wanted, "paper": PAPER, "right": RIGHT, "baseline": baseline, "resamples": resamples,
        "of": {(row["model"], row["films"], row["metric"], row["data_set"]): row for row in rows},
        "printed": {tuple(column): heading for heading, column in wanted["columns"].items()},
        "elsewhere": [*_elsewhere(rows, wanted["lead"])],
        "evaluations": [found for found in evaluations if found.facts["task"] == wanted["task"]], "command": command,
    }  # fmt: skip
    template = (resources.files(__package__) / "tables.txt").read_text(encoding="utf-8")
    table_of_all = pd.DataFrame(rows).reindex(columns=PAPER["fields"])
    made = {"csv": table_of_all.to_csv(index=False, float_format="%.6g", lineterminator="\n")}
    jinja = Environment(trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined, extensions=["jinja2.ext.do"])
    for kind, escape in ESCAPES.items():
        jinja.filters |= {"text": escape, "plain": _plain}
        made[kind] = jinja.from_string(template).render(facts, kind=kind)
    return made


def _elsewhere(rows: Sequence[Record], metric: str) -> Iterator[tuple[Record, Record, Record]]:
    """A model's change on the first data set, on another, and how the second differs from the first."""
    changed = [row for row in rows if row["metric"] == metric and "p" in row]
    for home in (row for row in changed if row["data_set"] == rows[0]["data_set"]):
        for away in (row for row in changed if row["model"] == home["model"] and row is not home):
            draws = away["change_draws"] - home["change_draws"]
            yield home, away, home | _spread("change", away["change"] - home["change"], draws)
