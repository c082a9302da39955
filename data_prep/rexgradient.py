"""ReXGradient-160K: reports of chest films from 79 sites, one row per study or per image.

Files, from https://huggingface.co/datasets/rajpurkarlab/ReXGradient-160K (access on request):
`metadata/{train,valid,test}_metadata_view_position.json`, one object whose keys are studies, each with lists
ImagePath (`../deid_png/<patient>/<accession>/studies/<study>/series/<series>/instances/<image>.png`) and
ImageViewPosition, and with Findings, Impression and PatientID; and `deid_png.part*`, which joined together are a tar
archive with `deid_png/`. Missing texts are null, NaN or the words "None" or "nan".

Licence: ReXGradient-160K's own, non-commercial.

Counts: 160,000 studies with 273,004 images: 140,000, 10,000 and 10,000 studies for training, validation and test.

Per study, its first film whose view is PA is taken, else the first that is AP, in the file's order.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from data_prep import images
from data_prep.opened import opened
from data_prep.problems import Problems, RefusedData
from data_prep.registry import data_set
from data_prep.sample import Sample
from data_prep.sections import SECTIONS, Sections, choose, line
from data_prep.splits import NAMES
from reward_fns.errors import UsageError

_VIEWS = {"PA": 0, "POSTERO_ANTERIOR": 0, "AP": 1, "ANTERO_POSTERIOR": 1}
_MISSING = {"", "none", "nan", "n/a"}
_CHUNK = 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ReXGradient."""
    parser.add_argument("--root", type=Path, required=True, help="folder with metadata/ and deid_png/")
    parser.add_argument("--section", choices=SECTIONS, default="findings", help="the part of a report to ask for")
    parser.add_argument("--per", choices=("study", "image"), default="study", help="one row per study or per image")
    images.add_arguments(parser)


@data_set(
    "rexgradient",
    summary="reports of ReXGradient-160K",
    example="python -m data_prep rexgradient --root ReXGradient-160K --workers 8 --out data/rexgradient",
    arguments=add_arguments,
    expected={"studies": 160_000, "images": 273_004},
)
def samples(options: argparse.Namespace, problems: Problems) -> Iterator[Sample]:
    """One report sample per study or image; whatever cannot be used goes to `problems`.

    Raises:
        UsageError: if the folder or all metadata are missing.
        RefusedData: if a file is damaged.
    """
    files = {name: options.root / f"metadata/{name}_metadata_view_position.json" for name in ("train", "valid", "test")}
    there = {name: path for name, path in files.items() if path.is_file()}
    if not there:
        raise UsageError(f"--root {options.root}: there is none of {', '.join(str(path) for path in files.values())}")
    return opened(_planned(there, options, problems), options, problems)


def _planned(
    files: dict[str, Path], options: argparse.Namespace, problems: Problems
) -> Iterator[tuple[Path, dict[str, Any]]]:
    for name, path in files.items():
        problems.source(path)
        for study, entry in tqdm(_entries(path), desc=name, unit="study", disable=None):
            problems.count("studies")
            films = _films(entry, f"{path.name}: {study}", problems)
            if films is None:
                continue
            texts = [_text(entry.get(section)) for section in ("Findings", "Impression")]
            chosen = choose(Sections(*texts), options.section)
            if chosen is None:
                problems.notes[f"studies whose report has no {options.section}"] += 1
                continue
            if not films:
                problems.notes["studies without a film of view PA or AP"] += 1
            kind, report = chosen
            for film in films[: 1 if options.per == "study" else None]:
                yield (
                    options.root / film,
                    {
                        "id": study if options.per == "study" else f"{study}-{film.stem}",
                        "patient_id": str(entry["PatientID"]),
                        "split": NAMES[name],
                        "dataset": "rexgradient",
                        "task": "report",
                        "report": report,
                        "kind": kind,
                    },
                )


def _text(value: Any) -> str:
    text = line(value) if isinstance(value, str) else ""
    return "" if text.lower() in _MISSING else text


def _films(entry: Any, where: str, problems: Problems) -> list[PurePosixPath] | None:
    """The frontal films of a study, best first, relative to the root; None, and a problem, if the entry is unusable."""
    values = entry if isinstance(entry, dict) else {}
    paths, views, patient = (values.get(key) for key in ("ImagePath", "ImageViewPosition", "PatientID"))
    problems.count("images", len(paths) if isinstance(paths, list) else 0)
    if not (isinstance(paths, list) and isinstance(views, list) and _text(patient)):
        told = "needs lists ImagePath and ImageViewPosition, and PatientID; study not used"
        problems.add("missing_key", where, told)
        return None
    if len(paths) != len(views):
        told = f"{len(paths)} ImagePath and {len(views)} ImageViewPosition; study not used"
        problems.add("missing_key", where, told)
        return None
    found = []
    for place, (path, view) in enumerate(zip(paths, views, strict=True)):
        parts = PurePosixPath(str(path).removeprefix("../"))
        if parts.is_absolute() or ".." in parts.parts or parts.parts[:1] != ("deid_png",):
            problems.add("unsafe_path", where, f"image {path!r} is not under ../deid_png/; image not used")
        elif view in _VIEWS:
            found.append((_VIEWS[view], place, parts))
    return [parts for _, _, parts in sorted(found)]


def _entries(path: Path) -> Iterator[tuple[str, Any]]:
    """Keys and values of the object in a JSON file, one by one: the training file is too large to hold as a whole."""
    decoder = json.JSONDecoder()
    try:
        with path.open(encoding="utf-8") as file:
            text, start = file.read(_CHUNK).lstrip(), 1
            if not text.startswith("{"):
                raise RefusedData(f"{path} holds no JSON object; get it again")
            while True:
                try:
                    start = _skip(text, start, ", \t\r\n")
                    if text[start : start + 1] == "}":
                        return
                    key, end = decoder.raw_decode(text, start)
                    value, end = decoder.raw_decode(text, _skip(text, end, ": \t\r\n"))
                except ValueError as error:
                    more = file.read(_CHUNK)
                    if not more:
                        raise RefusedData(f"{path} is no valid JSON or cut short: {error}; get it again") from error
                    text, start = text[start:] + more, 0
                else:
                    yield str(key), value
                    start = end
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RefusedData(f"{path} is not in UTF-8: {error.reason}; get the original") from error


def _skip(text: str, start: int, characters: str) -> int:
    while text[start : start + 1] and text[start] in characters:
        start += 1
    return start
