"""Samples with their gold, from prepared data or verl's dumps, and a model's predictions for them, matched by id."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.writer.staging import parquet_rows
from recipe.cxr_grpo.results.films import CONTROLS
from recipe.cxr_grpo.results.validation import OWN, read_rows
from reward_fns.errors import UsageError, unknown
from reward_fns.ground_truth import GroundTruth, parse_ground_truth
from reward_fns.registry import TASKS

ARMS = (OWN, *CONTROLS)
_SHOWN = {"films": None, "frame": None}  # keys of the gold that a control changes


@dataclass(frozen=True)
class Sample:
    """A question about a film, with its gold."""

    id: str
    patient_id: str
    data_set: str
    task: str
    films: str  # whose film the model sees, one of ARMS
    question: str
    image: str | None  # path of the film; None if the data has none, or another film is shown
    thinking: bool  # whether the model is to think first
    info: Mapping[str, Any]  # what an answer is read with: id, task, box_format, width, height
    truth: GroundTruth


class Given(NamedTuple):
    """A prediction ``{"id", "prediction": text or null, "films", ...}``; a dump's brings its gold, as a row for RL."""

    row: dict[str, Any]
    where: str
    gold: dict[str, Any] | None = None


Pairs = list[tuple[Sample, dict[str, Any] | None]]


def samples(paths: Sequence[Path], given: Iterable[Given] = (), *, thinking: bool = False) -> list[Sample]:
    """The samples of parquet files for RL, or without files those whose gold comes with dumps; UsageError: bad gold.

    With ``thinking`` the model thinks first, whatever the data says.
    """
    found: dict[tuple[str, str], Sample] = {}
    rows: Iterable = ((f"{path}, row {number}", row) for path in paths for number, row in enumerate(parquet_rows(path)))
    if not paths:  # dumps are in no order
        rows = ((of.where, of.gold) for of in sorted(given, key=lambda of: of.row["id"]))
    for where, row in rows:
        if row is None:
            raise UsageError(f"{where}: has no gold; name the parquet files with --data")
        try:
            source, _, task = row["data_source"].rpartition("/")
            if task not in TASKS:
                raise UsageError(f"{where}: {unknown('task', task, TASKS)}")
            image, question = (*row["images"], {})[0].get("image") or "", row["prompt"][0]["content"]
            truth, defects = parse_ground_truth(row["reward_model"]["ground_truth"], task)
            if truth is None:
                raise UsageError(f"{where}: {'; '.join(defect.detail for defect in defects)}")
            info = {"box_format": "radvlm", "width": 1, "height": 1, **row["extra_info"], **truth.stored, "task": task}
            info |= dict(zip(("width", "height"), truth.frame or (), strict=False))  # of the film that is shown
            key, think = (info.get("films", OWN), info["id"]), bool(info.pop("thinking", False)) or thinking
            names = info["id"], info["patient_id"], source.partition("/films_")[0].replace("/", "_"), task, key[0]
            shown = question.replace("<image>", "").strip(), image.removeprefix("file://") or None
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise UsageError(f"{where}: not a row for RL as data_prep writes it ({error!r})") from error
        if key in found:
            raise UsageError(f"{where}: a second sample {key[1]!r}; evaluate data sets with equal ids one by one")
        found[key] = Sample(*names, *shown, think, info, truth)
    return [*found.values()]


def read_predictions(paths: Sequence[Path]) -> list[Given]:
    """The predictions in files of JSON lines and in verl's dumps, whose data set is called "dump"; or a UsageError."""
    given: list[Given] = []
    for path in paths:
        try:
            with path.open(encoding="utf-8") as file:
                lines = [(f"{path}, line {n}", json.loads(line)) for n, line in enumerate(file, 1) if line.strip()]
        except (OSError, ValueError, RecursionError) as error:
            cause = getattr(error, "strerror", None) or error
            raise UsageError(f"cannot read the predictions {path}: {cause}") from error
        if lines and isinstance(lines[0][1], dict) and {"input", "output", "gts"} <= lines[0][1].keys():
            for (where, _), row in zip(lines, read_rows(path), strict=True):
                gold: dict[str, Any] = {"data_source": f"dump/{row.task}", "prompt": [{"content": row.asked()}]}
                gold |= {"images": [], "extra_info": {}, "reward_model": {"ground_truth": row.truth}}
                given.append(Given({"id": row.id, "prediction": row.answer, "films": row.films}, where, gold))
            continue
        for where, raw in lines:
            line = {"id": 0, "prediction": 0, "films": OWN, **(raw if isinstance(raw, dict) else {})}
            if not isinstance(line["id"], str) or not isinstance(line["prediction"], str | None):
                # Not the row itself: it may hold a report.
                got = f"the keys {', '.join(raw)}" if isinstance(raw, dict) else f"a {type(raw).__name__}"
                raise UsageError(f'{where}: need {{"id": text, "prediction": text or null}}, got {got}')
            if line["films"] not in ARMS:
                raise UsageError(f"{where}: {unknown('films', line['films'], ARMS)}")
            given.append(Given(line, where))
    return given


def match(asked: Sequence[Sample], given: Iterable[Given]) -> list[Pairs]:
    """Per data set, task and films its samples in the data's order, each with its prediction or None.

    What has no prediction at all is left out. Where the data has no rows for other films, its own ones are meant.
    UsageError: an id twice, one that the data does not have, or one whose gold in a dump is another than in the data.
    """
    groups: dict[tuple[str, str, str], dict[str, Sample]] = {}
    for sample in asked:
        groups.setdefault((sample.data_set, sample.task, sample.films), {})[sample.id] = sample
    for (data_set, task, films), of in [*groups.items()]:
        for arm in CONTROLS if films == OWN else ():
            others = {name: replace(sample, films=arm, image=None) for name, sample in of.items()}
            groups.setdefault((data_set, task, arm), others)
    expected = {(key[2], name): sample for key, of in groups.items() for name, sample in of.items()}
    answers: dict[tuple[str, str], dict[str, Any]] = {}
    for row, where, gold in given:
        films, name = place = row["films"], row["id"]
        if place not in expected:
            known = f"the data has samples such as {next(iter(expected), ('', None))[1]!r}"
            raise UsageError(f"{where}: no sample is named {name!r} with films {films}; {known}. Is it of another set?")
        if answers.setdefault(place, row) is not row:
            raise UsageError(f"{where}: a second prediction for sample {name!r} with films {films}")
        if gold and {**gold["reward_model"]["ground_truth"], **_SHOWN} != {**expected[place].truth.stored, **_SHOWN}:
            raise UsageError(f"{where}: sample {name!r} has another ground truth than in --data")
    matched = [[(sample, answers.get((sample.films, sample.id))) for sample in of.values()] for of in groups.values()]
    return [pairs for pairs in matched if any(row for _, row in pairs)]
