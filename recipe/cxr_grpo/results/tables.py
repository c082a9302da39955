"""The paper's tables from results folders: values with intervals, tests, controls, and the printed numbers beside them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from statistics import fmean
from typing import Any

import numpy as np
import yaml

from recipe.cxr_grpo.results.evaluations import Arms, Evaluation, grouped, pooled, statistics
from recipe.cxr_grpo.results.intervals import Statistic, bootstrap, holm, interval, randomization
from recipe.cxr_grpo.results.validation import OWN
from reward_fns.errors import UsageError

PAPER: Mapping[str, Any] = yaml.safe_load((resources.files(__package__) / "paper.yaml").read_text())
RIGHT = 0.5  # a grounding answer that earns this much is right: the threshold of AP@0.5
FIELDS = ("data_set model films metric value value_low value_high samples against change change_low change_high p "
          "p_holm film_dependent reverse paper from_paper seeds failed missing scores_sha256").split()  # fmt: skip
"""Columns of the CSV, in the paper's units. On control films, ``change`` is what the own films earn more."""
_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
          ">": r"\textgreater{}", "|": r"\textbar{}", "[": "{[}", "]": "{]}", "Δ": r"$\Delta$", "−": "$-$",
          "↓": r"$\downarrow$"} | {character: f"\\{character}" for character in "&%$#_{}"}  # fmt: skip
ESCAPES = {
    "md": lambda text: re.sub(r"([\\`*_\[\]<>|~&$])", r"\\\1", " ".join(str(text).split())),
    "tex": lambda text: "".join(_LATEX.get(character, character) for character in " ".join(str(text).split())),
}
"""Format -> what makes any text harmless there."""
Record = dict[str, Any]


def measure(evaluations: Sequence[Evaluation], table: str, baseline: str | None, resamples: int) -> list[Record]:
    """The numbers of a table: one record with keys of `FIELDS` per data set, model, films and metric.

    UsageError: no evaluation is of the table's task, the baseline is not among the models, models of a data set have
    other samples, or one lacks results on the patients' own films.
    """
    wanted = PAPER["tables"][table]
    data_sets = {data_set: of for (task, data_set), of in grouped(evaluations).items() if task == wanted["task"]}
    names = sorted({model for models in data_sets.values() for model in models})
    if baseline not in (None, *names):
        raise UsageError(f"--baseline {baseline}: the models of table {table} are {', '.join(names)}")
    permutations = max(
        resamples, 50 * len(names) * len(data_sets) * len(PAPER["metrics"])
    )  # or Holm leaves no p < 0.05
    rows = [row for seed, (data_set, models) in enumerate(data_sets.items())
            for row in _of_data_set(data_set, models, baseline, resamples, permutations, seed)]  # fmt: skip
    corrected = holm({place: row["p"] for place, row in enumerate(rows) if "p" in row})
    printed = {(_plain(model), *column): value for model, values in wanted["rows"].items()
               for column, value in zip(wanted["columns"].values(), values, strict=True)}  # fmt: skip
    for place, row in enumerate(rows):
        row |= {"p_holm": corrected[place]} if place in corrected else {}
        for name in (name for name in row if name.startswith(("value", "change"))):
            row[name] = row[name] * PAPER["metrics"].get(row["metric"], [None, 1])[1]
        paper = printed.get((_plain(row["model"]), row["metric"], row["data_set"]))
        if row["films"] == OWN and paper is not None:
            row |= {"paper": paper, "from_paper": row["value"] - paper}
    return rows


def _plain(model: str) -> str:
    """A model's name without case and punctuation: radvlm-rl is the paper's RadVLM+RL."""
    return re.sub(r"[\W_]", "", model.casefold())


def _of_data_set(
    data_set: str, models: Mapping[str, Arms], baseline: str | None, resamples: int, permutations: int, seed: int
) -> Iterator[Record]:
    of: dict[tuple[str | None, str, str], Statistic] = {}
    keys: list[tuple[str, str]] = []
    for model, arms in models.items():
        pools = {films: pooled(found, arms.get(OWN, ())) for films, found in arms.items()}
        own = pools[OWN]
        keys = keys or sorted(own)
        if differ := own.keys() ^ set(keys):
            raise UsageError(f"{model} has other samples of {data_set} than {[*models][0]}, e.g. {min(differ)[1]}; "
                             "evaluate both on the same files")  # fmt: skip
        patients = [f"{key[0]} {own[key][0].patient_id}" for key in keys]
        pools |= {f"as {films}": {key: own[key] for key in pool} for films, pool in pools.items() if films != OWN}
        for films, pool in pools.items():
            of |= {(model, films, metric): each for metric, each in statistics(pool, keys).items()}
    found = bootstrap(of, patients, resamples, seed)
    pairs = {}  # what is compared: own films with the baseline's answers, and with control films
    for key in of:
        model, films, metric = key
        pair = (key, (baseline, OWN, metric)) if films == OWN else ((model, f"as {films}", metric), key)
        if pair[0] != pair[1] and all(part in of for part in pair):
            pairs[key] = pair
    tested = {key: (of[first], of[second]) for key, (first, second) in pairs.items() if key[1] == OWN}
    p_values = randomization(tested, patients, permutations, seed) if tested else {}
    for model, films, runs in ((model, films, runs) for model, arms in models.items() for films, runs in arms.items()):
        facts = runs[0].facts
        about: Record = {"data_set": data_set, "model": model, "films": films, "seeds": len(runs)}
        about |= {name: sum(row.status == name for run in runs for row in run.scores) for name in ("failed", "missing")}
        about["scores_sha256"] = " ".join(run.digest for run in runs)
        for metric in dict.fromkeys((*PAPER["metrics"], *facts.metrics)):
            key, higher = (model, films, metric), facts.higher_is_better.get(metric, True)
            row = about | {"metric": metric, "higher": higher}
            if key in of:
                row |= _spread("value", *found[key]) | {"samples": of[key].n}
            elif known := [value for run in runs if (value := run.facts.metrics.get(metric)) is not None]:
                row["value"] = fmean(known)
            if key in pairs:
                first, second = pairs[key]
                row |= _spread("change", found[first][0] - found[second][0], found[first][1] - found[second][1])
                row |= {"p": p_values[key], "against": baseline} if films == OWN else {"against": "own films"}
                if films != OWN and of[key].kind == "mean":
                    row |= _dependent(of[first], of[key], facts.task == "grounding", higher)
            if "value" in row:
                yield row


def _spread(name: str, value: float, draws: np.ndarray) -> Record:
    low, high = interval(draws)
    return {name: value, f"{name}_low": low, f"{name}_high": high, f"{name}_draws": draws}


def _dependent(own: Statistic, control: Statistic, boxes: bool, higher: bool) -> Record:
    """How many samples are right on the own film and wrong on the control, or earn more there; and the reverse."""
    values = [of.columns[:, 0] >= RIGHT if boxes else of.columns[:, 0] * (1 if higher else -1) for of in (own, control)]
    gaps = (values[0].astype(float) - values[1]) * (own.columns[:, 1] * control.columns[:, 1])
    return {"film_dependent": int((gaps > 0).sum()), "reverse": int((gaps < 0).sum())}


def make(
    evaluations: Sequence[Evaluation], table: str, baseline: str | None, resamples: int, command: str
) -> dict[str, str]:
    """A table by format: md, tex and csv; errors as `measure`."""
    from jinja2 import Environment, StrictUndefined
    from pandas import DataFrame

    rows, wanted = measure(evaluations, table, baseline, resamples), PAPER["tables"][table]
    printed = {tuple(column): heading for heading, column in wanted["columns"].items()}
    lead, data_sets = dict.fromkeys(metric for metric, _ in printed), dict.fromkeys(row["data_set"] for row in rows)
    groups = [(name, [(metric, name) for metric in lead]) for name in data_sets]
    if len(lead) == 1:
        groups = [("by data set", [column for _, group in groups for column in group])]
    others = dict.fromkeys(row["metric"] for row in rows if row["metric"] not in lead)
    groups += [(f"{name}, further metrics", [(metric, name) for metric in others]) for name in data_sets]
    known = {(row["metric"], row["data_set"]) for row in rows}
    shown = [(title, [column for column in group if column in known]) for title, group in groups]
    facts = {
        "groups": [(title, group) for title, group in shown if group],
        "of": {(row["model"], row["films"], row["metric"], row["data_set"]): row for row in rows},
        "models": dict.fromkeys(row["model"] for row in rows),
        "lower": {row["metric"] for row in rows if not row["higher"]},
        "unbounded": dict.fromkeys(PAPER["metrics"][row["metric"]][0] for row in rows if "value_low" not in row),
        "tests": sum("p" in row for row in rows),
        "elsewhere": [*_elsewhere(rows, wanted["lead"])],
        "sources": [command, *(f"{run.folder}: data {run.facts.hashes.get('data')}, scores {run.digest}"
                               for run in evaluations if run.facts.task == wanted["task"])],
    }  # fmt: skip
    facts |= {"rows": rows, "wanted": wanted, "printed": printed, "data_sets": data_sets, "baseline": baseline}
    text = (resources.files(__package__) / "tables.txt").read_text(encoding="utf-8")
    made = {
        "csv": DataFrame(rows).reindex(columns=FIELDS).to_csv(index=False, float_format="%.6g", lineterminator="\n")
    }
    for kind, escape in ESCAPES.items():
        jinja = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
        jinja.filters |= {"text": escape, "plain": _plain}
        one_line = {"one_line": lambda text: " ".join(str(text).split())}
        made[kind] = jinja.from_string(text).render(
            facts | one_line, kind=kind, paper=PAPER, right=RIGHT, resamples=resamples
        )
    return made


def _elsewhere(rows: Sequence[Record], metric: str) -> Iterator[tuple[Record, Record, Record]]:
    """A model's change on the first data set, on another, and how the second differs from the first."""
    changed = [row for row in rows if row["metric"] == metric and "p" in row]
    for home in (row for row in changed if row["data_set"] == rows[0]["data_set"]):
        for away in (row for row in changed if row["model"] == home["model"] and row is not home):
            draws = away["change_draws"] - home["change_draws"]
            yield home, away, home | _spread("change", away["change"] - home["change"], draws)
