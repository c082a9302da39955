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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_prep.problems import Problems
from data_prep.readers import images, jsons, pictures
from data_prep.readers.sections import SECTIONS, Sections, choose, line
from data_prep.registry import data_set
from data_prep.sample import Sample
from data_prep.splits import NAMES
from reward_fns.errors import UsageError

_VIEWS = {"PA": 0, "POSTERO_ANTERIOR": 0, "AP": 1, "ANTERO_POSTERIOR": 1}
_MISSING = {"", "none", "nan", "n/a"}


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
    for name in files.keys() - there.keys():
        problems.notes[f"no metadata of the {name} split"] += 1
    records = _records(there, options, problems)
    for fields, (image, width, height) in pictures.read(records, options, problems):
        yield Sample(image=image, width=width, height=height, **fields)


def _records(
    files: dict[str, Path], options: argparse.Namespace, problems: Problems
) -> Iterator[tuple[dict[str, Any], Path]]:
    """The samples but for their image, and where that lies."""
    for name, path in files.items():
        for study, entry in tqdm(jsons.members(path, problems), desc=name, unit="study", disable=None):
            where = f"{path.name}: {study}"
            problems.count("studies")
            films = _films(entry, where, problems)
            if films is None:
                continue
            texts = [_text(entry.get(section)) for section in ("Findings", "Impression")]
            chosen = choose(Sections(*texts), options.section)
            if chosen is None:
                problems.notes[f"reports without the section asked for ({options.section})"] += 1
                continue
            if not films:
                problems.notes["studies without a film of view PA or AP"] += 1
            kind, report = chosen
            for film in films[: 1 if options.per == "study" else None]:
                place = pictures.within(options.root, film, where, problems)
                if place is not None:
                    fields = {
                        "id": study if options.per == "study" else f"{study}-{place.stem}",
                        "patient_id": str(entry["PatientID"]),
                        "split": NAMES[name],
                        "dataset": "rexgradient",
                        "task": "report",
                        "report": report,
                        "kind": kind,
                    }
                    yield fields, place


def _text(value: Any) -> str:
    text = line(value) if isinstance(value, str) else ""
    return "" if text.lower() in _MISSING else text


def _films(entry: Any, where: str, problems: Problems) -> list[str] | None:
    """The frontal films of a study, best first, relative to the root; None, and a problem, if the entry is unusable."""
    values = entry if isinstance(entry, dict) else {}
    paths, views, patient = (values.get(key) for key in ("ImagePath", "ImageViewPosition", "PatientID"))
    problems.count("images", len(paths) if isinstance(paths, list) else 0)
    if not (isinstance(paths, list) and isinstance(views, list) and _text(str(patient))):
        told = "needs lists ImagePath and ImageViewPosition, and PatientID; study not used"
        problems.add("missing_key", where, told)
        return None
    if len(paths) != len(views):
        told = f"{len(paths)} ImagePath and {len(views)} ImageViewPosition; study not used"
        problems.add("missing_key", where, told)
        return None
    ranked = [(_VIEWS[str(view)], place) for place, view in enumerate(views) if str(view) in _VIEWS]
    return [str(paths[place]).removeprefix("../") for _, place in sorted(ranked)]
