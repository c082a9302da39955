"""Whether a model looks at the film: the same questions on another film, and how much less their answers earn.

A control is a copy of a parquet file of prepared data whose rows ask the same questions on other films:

- ``swapped``: a film of another patient, drawn among the rows of the same file and task;
- ``same_finding``: as ``swapped``, among the rows that ask for the same finding, which is stricter; grounding only;
- ``blank``: a film of one gray value.

Questions, gold answers and ids stay. A model that answers from the film earns more on its own film than on a control;
one that only knows where findings usually are, or how reports are usually worded, earns the same on both.
"""

import json
import random
from collections import defaultdict, namedtuple
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from PIL import Image

from data_prep.readers.images import png_bytes
from data_prep.writer.staging import parquet_rows, rewrite
from recipe.cxr_grpo.results.validation import OWN, Row, paired
from reward_fns.errors import UsageError

CONTROLS = ("swapped", "same_finding", "blank")
_GRAY = 128
_Film = namedtuple("_Film", "patient images frame")


def write_control(source: Path, target: Path, control: str = "swapped", seed: int = 0) -> int:
    """Write a control of a parquet file for RL; returns how many rows it has.

    The rows' ``ground_truth`` gains ``films``, the name of the control, and their data source ends in ``/films_<name>``
    before the task, so that verl's metrics stay apart. A row without another patient's film is left out.
    UsageError: an unknown control, or not one row has another film.
    """
    if control not in CONTROLS:
        raise UsageError(f"unknown control {control!r}; choose from {', '.join(CONTROLS)}")
    rng = random.Random(seed)
    films: dict[Any, list[_Film]] = defaultdict(list)
    for row in parquet_rows(source):
        truth = json.loads(row["reward_model"]["ground_truth"])
        films[_group(truth, control)].append(_Film(truth["patient_id"], row["images"], truth.get("frame")))

    def change(_: int, row: dict[str, Any]) -> dict[str, Any] | None:
        truth = json.loads(row["reward_model"]["ground_truth"])
        if control == "blank":
            row["images"] = [_blank(entry, row["extra_info"], target.parent) for entry in row["images"]]
        else:
            candidates = films[_group(truth, control)]
            alone = all(film.patient == truth["patient_id"] for film in candidates)
            if alone or (control == "same_finding" and truth["task"] != "grounding"):
                return None
            while (film := rng.choice(candidates)).patient == truth["patient_id"]:
                pass
            row["images"] = film.images
            truth |= {"frame": film.frame} if film.frame else {}  # boxes in pixels are in those of the film shown
        data_set, _, task = row["data_source"].rpartition("/")
        row["data_source"] = f"{data_set}/films_{control}/{task}"
        row["reward_model"]["ground_truth"] = json.dumps({**truth, "films": control}, ensure_ascii=False)
        return row

    target.parent.mkdir(parents=True, exist_ok=True)
    if not (written := rewrite(source, target, change)):
        raise UsageError(f"{source}: no row has a film of another patient to be swapped with; prepare more patients")
    return written


def write_controls(
    sources: Sequence[Path], folder: Path, controls: Sequence[str] = ("swapped",), seed: int = 0
) -> list[Path]:
    """Write the controls of several files, each as ``folder/<file>-<control>.parquet``; returns these paths."""
    targets = {
        folder / f"{source.stem}-{control}.parquet": (source, control) for source in sources for control in controls
    }
    if len(targets) < len(sources) * len(controls):
        raise UsageError("two of the files have the same name; give each its own folder")
    for target, (source, control) in targets.items():
        write_control(source, target, control, seed)
    return [*targets]


def _group(truth: Mapping[str, Any], control: str) -> Any:
    """What rows that may exchange their films have in common."""
    labels = tuple(sorted(set(truth.get("labels") or ())))
    return (truth["task"], labels) if control == "same_finding" else truth["task"]


def _blank(entry: Mapping[str, Any], info: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    size = info["width"], info["height"]
    picture = png_bytes(Image.new("L", size, _GRAY))
    if "bytes" in entry:
        return {**entry, "bytes": picture}
    path = folder.absolute() / f"blank-{size[0]}x{size[1]}.png"
    path.write_bytes(picture)
    return {**entry, "image": f"file://{path}"}


Rows = Mapping[str, Row]  # sample id -> row


def film_dependence(own: Rows, control: Rows) -> dict[str, dict[str, Any]]:
    """Task -> mean reward on the own film and on the control, and the ``difference`` own minus control.

    The difference is paired by sample, ``{"mean", "n", "ci95"}``, with an interval by bootstrap over patients. Samples
    that either lacks, such as those whose scoring failed, are left out of all three.
    """
    found: dict[str, dict[str, Any]] = {}
    for task in sorted({row.task for row in control.values()}):
        ids = [i for i, row in control.items() if row.task == task and i in own]
        scores = [{i: rows[i].score for i in ids} for rows in (control, own)]
        means = {OWN: scores[1], control[ids[0]].films: scores[0]}
        patients = {i: own[i].patient_id for i in ids}
        found[task] = {name: fmean(of.values()) for name, of in means.items()}
        found[task]["difference"] = paired(scores[0], scores[1], patients)._asdict()
    return found


def compare(before: Mapping[str, Rows], after: Mapping[str, Rows], control: str = "swapped") -> dict[str, Any]:
    """``before`` and ``after`` as `film_dependence`, and ``change`` as `dependence_change`, of two evaluations."""
    pairs = [(rows[OWN], rows[control]) for rows in (before, after)]
    found = dict(zip(("before", "after"), (film_dependence(*pair) for pair in pairs), strict=True))
    return found | {"change": dependence_change(*pairs)}


def dependence_change(before: tuple[Rows, Rows], after: tuple[Rows, Rows]) -> dict[str, dict[str, Any]]:
    """Task -> growth of own minus control, as `film_dependence` gives a difference; each pair is (own, control)."""
    changes = {}
    for task in sorted({row.task for row in before[1].values()}):
        ids = [i for i, row in before[1].items() if row.task == task]
        gaps = [{i: own[i].score - control[i].score for i in ids} for own, control in (before, after)]
        patients = {i: before[0][i].patient_id for i in ids}
        changes[task] = paired(gaps[0], gaps[1], patients)._asdict()
    return changes
