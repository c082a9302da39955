"""Your own data, one JSON object per line (or a JSON list of them); `jsonl.txt`, shown by `--help`, gives the keys."""

import argparse
import reprlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_prep.options import add_options
from data_prep.problems import Problems
from data_prep.readers import pictures, reports
from data_prep.readers.jsons import objects
from data_prep.registry import data_set
from data_prep.sample import KINDS, SPLITS, Sample
from reward_fns.boxes import Box

_TEXTS = ("id", "patient_id", "image", "report", "phrase", "question", "kind", "split")
_KEYS = (*_TEXTS, "boxes", "labels")
_Record = tuple[str, dict[str, Any]]


class _SwappedCorners(ValueError):
    """A right or lower edge is not beyond the left or upper one."""


class _Help(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Shows the description as it is written, and defaults."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The loader's own options; `--help` shows the keys of an object."""
    parser.description, parser.formatter_class = Path(__file__).with_suffix(".txt").read_text("utf-8"), _Help
    parser.add_argument("--root", type=Path, required=True, help="folder of the images")
    parser.add_argument("--annotations", type=Path, required=True, help="file with one JSON object per line")
    parser.add_argument("--name", default="jsonl", help="name of the data set in the rows")
    parser.add_argument("--box-unit", choices=("share", "pixel"), default="share", help="unit of boxes, of the image")
    add_options(parser, "splits", "images")


@data_set(
    "jsonl",
    summary="your own reports and boxes, one JSON object per line",
    example="python -m data_prep jsonl --root films --annotations mine.jsonl --split-by-hash 0.8,0.1,0.1 "
    "--out data/mine",
    arguments=add_arguments,
)
def samples(options: argparse.Namespace, problems: Problems) -> Iterator[Sample]:
    """One sample per object; what cannot be used goes to `problems`."""
    reports.folder(options.root, "--root", "the images")
    records = _records(tqdm(objects(options.annotations, problems), unit="object", disable=None), options, problems)
    for (where, item), film in pictures.read(records, options, problems):
        try:
            boxes = tuple(_boxes(item, *film[1:], options.box_unit))
        except (TypeError, ValueError, OverflowError) as error:
            kind = "swapped_corners" if isinstance(error, _SwappedCorners) else "bad_box"
            problems.add(kind, where, f"{error}; not used")
            continue
        patient, task = item["patient_id"], "report" if "report" in item else "grounding"
        split = item.get("split") or reports.split(options, patient)
        content = {key: item[key] for key in ("report", "phrase", "question", "kind") if key in item}
        yield Sample(item["id"], patient, split, options.name, task, *film, boxes=boxes, **content)


def _records(
    items: Iterable[_Record], options: argparse.Namespace, problems: Problems
) -> Iterator[tuple[_Record, Path]]:
    """The objects whose texts can be used, with the paths of their images."""
    seen: set[int] = set()
    for place, item in items:
        for key in item.keys() - set(_KEYS):
            problems.notes[f"objects with the unknown key {key[:40]!r}"] += 1
        item = {key: value for key, value in item.items() if key in _KEYS and value is not None}
        where = f"{place} (id {reprlib.repr(item.get('id'))})"
        if wrong := _wrong(item):
            problems.add("bad_record", where, f"{wrong}; not used")
        elif hash(item["id"]) in seen:
            problems.add("duplicate_id", where, "this id was used before; not used")
        else:
            seen.add(hash(item["id"]))
            if path := pictures.within(options.root, item["image"], where, problems):
                yield (where, item), path


def _wrong(item: dict[str, Any]) -> str:
    """What is wrong with the texts of an object, or nothing."""
    for key in _TEXTS:
        if key in ("id", "patient_id", "image") and key not in item:
            return f"has no {key}"
        if key in item and not (isinstance(item[key], str) and item[key].strip()):
            return f"{key} must be a text that is not blank, but is {reprlib.repr(item[key])}"
    if ("report" in item) == ("phrase" in item):
        return "needs either a report or a phrase with boxes"
    if "report" in item and reports.is_placeholder(item["report"]):
        return f"the report is {item['report'][:40]!r}, which says nothing"
    if "phrase" in item and "boxes" not in item:
        return "has a phrase but no boxes; an empty list says that it is not there"
    kinds = KINDS["report" if "report" in item else "grounding"]
    if item.get("kind", kinds[0]) not in kinds:
        return f"kind must be one of {', '.join(kinds)}, but is {item['kind']!r}"
    if item.get("split", "train") not in SPLITS:
        return f"split must be one of {', '.join(SPLITS)}, but is {item['split']!r}"
    return ""


def _boxes(item: dict[str, Any], width: int, height: int, unit: str) -> Iterator[Box]:
    """The boxes of an object; an error if one is malformed, outside the image or in the other unit."""
    boxes = item.get("boxes", [])
    labels = item.get("labels", [item.get("phrase", "")] * len(boxes) if isinstance(boxes, list) else None)
    if not isinstance(boxes, list) or not isinstance(labels, list) or len(labels) != len(boxes):
        raise TypeError("boxes must be a list of boxes, and labels a list with one for each")
    across, down = (width, height) if unit == "pixel" else (1, 1)
    for box, label in zip(boxes, labels, strict=True):
        shown = f"box {reprlib.repr(box)} with --box-unit {unit}"
        if not isinstance(box, list) or [type(value) in (int, float) for value in box] != [True] * 4:
            raise TypeError(f"{shown} is not [x1, y1, x2, y2]")
        x1, y1, x2, y2 = box
        if x1 >= x2 or y1 >= y2:
            raise _SwappedCorners(f"{shown} has no area; give the right and bottom edge, not width and height")
        if unit == "share" and max(box) > 1:
            raise ValueError(f"{shown} is larger than 1; if it is in pixels, give --box-unit pixel")
        if unit == "pixel" and min(x2 - x1, y2 - y1) < 1:
            raise ValueError(f"{shown} is smaller than a pixel; if it is in shares of the image, leave --box-unit out")
        try:
            yield Box(x1 / across, y1 / down, x2 / across, y2 / down, str(label))
        except ValueError as error:
            raise ValueError(f"{shown} is outside the {width} x {height} image: {error}") from error
