"""NIH ChestX-ray14: the 984 boxes that a radiologist drew, for eight findings on 880 films (abnormality grounding).

Files, from https://nihcc.app.box.com/v/ChestXray-NIHCC:

- `BBox_List_2017.csv`, plain or gzipped. Its header `Image Index,Finding Label,Bbox [x,y,w,h],,,` has more columns than
  the rows, whose six fields are the film, the finding, and upper left corner, width and height of the box in pixels of
  the film, which is 1024 x 1024 as published;
- the films `images_001/images/<patient>_<number>.png` and so on, or all in one folder. Resized copies will do as long
  as they are square; the box stays the same share of the film.
- `test_list.txt`, the names of the films of the official test split.

Licence: free use, with attribution to the NIH Clinical Center and the paper (Wang et al., CVPR 2017).

Counts: 984 boxes on 880 films.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_prep.problems import Problems
from data_prep.readers import images, pictures, tables
from data_prep.readers.pixel_boxes import box
from data_prep.registry import data_set
from data_prep.sample import SPLITS, Sample
from reward_fns.boxes import Box
from reward_fns.errors import UsageError

_LIST = "BBox_List_2017.csv"
_SIDE = 1024
_NAME = re.compile(r"(\d{8})_\d{3}\.png")
# Copies are square but for the rounding of a side.
_SQUARE = 0.01


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of NIH ChestX-ray14."""
    parser.add_argument("--root", type=Path, required=True, help="folder of the films, or of images_001/ and so on")
    parser.add_argument("--boxes", type=Path, help=f"the list of boxes (default: {_LIST} in --root)")
    split = parser.add_mutually_exclusive_group()
    split.add_argument("--split", choices=SPLITS, default="test", help="the split that all films go to")
    split.add_argument("--test-list", type=Path, help="or the official test_list.txt; other films are for training")
    images.add_arguments(parser)


@dataclass
class _Film:
    name: str
    patient: str
    findings: dict[str, dict[tuple[float, ...], Box]] = field(default_factory=dict)


@data_set(
    "nih_cxr14",
    summary="the 984 boxes of ChestX-ray14, for eight findings",
    example="python -m data_prep nih_cxr14 --root CXR8 --boxes BBox_List_2017.csv --out data/nih",
    arguments=add_arguments,
    expected={"boxes": 984, "films": 880},
)
def samples(options: argparse.Namespace, problems: Problems) -> Iterator[Sample]:
    """One grounding sample per film and finding; whatever cannot be used goes to `problems`.

    Raises:
        UsageError: if a folder or a file is missing, or the list of boxes has another header.
        RefusedData: if a file is damaged.
    """
    if not options.root.is_dir():
        raise UsageError(f"--root {options.root} is not a folder; give the one that holds the films")
    test = _names(options.test_list, problems) if options.test_list else None
    films = _films(options.boxes or tables.find(options.root, _LIST, "--boxes"), problems)
    placed = _placed(tqdm(films, unit="film", disable=None), options.root, problems)
    for film, (picture, width, height) in pictures.read(placed, options, problems):
        if abs(width / height - 1) > _SQUARE:
            told = f"is {width} x {height}, and the films are square; where the boxes are on it is not known, not used"
            problems.add("size_mismatch", film.name, told)
            continue
        for finding, boxes in film.findings.items():
            yield Sample(
                id=f"{Path(film.name).stem}-{finding}",
                patient_id=film.patient,
                split=options.split if test is None else "test" if film.name in test else "train",
                dataset="nih_cxr14",
                task="grounding",
                image=picture,
                width=width,
                height=height,
                phrase=finding,
                boxes=tuple(boxes[corners] for corners in sorted(boxes)),
                kind="abnormality",
            )


def _names(path: Path, problems: Problems) -> set[str]:
    names = {row[0].strip() for row in tables.raw(path, problems) if row}
    if not any(map(_NAME.fullmatch, names)):
        raise UsageError(f"--test-list {path} names no film; it should have one a line, such as 00013118_008.png")
    return names


def _films(path: Path, problems: Problems) -> list[_Film]:
    """Films with a usable box, in the order of the list."""
    films: dict[str, _Film] = {}
    named = set()
    rows = tables.raw(path, problems)
    header = ",".join(next(rows, [])).replace(" ", "")
    if not header.startswith("ImageIndex,FindingLabel,Bbox[x,y,w,h]"):
        raise UsageError(
            f"{path} has the header {header[:80]!r}, not that of {_LIST}: Image Index,Finding Label,Bbox …"
        )
    for number, row in enumerate(rows, 2):
        where = f"{path.name}, row {number}"
        if not any(row):
            continue
        problems.count("boxes")
        # Some copies have the header's empty columns in their rows too.
        name, finding, *bbox = (value.strip() for value in row + [""] * 2)
        named.add(name)
        match = _NAME.fullmatch(name)
        if match is None:
            problems.add("unsafe_path", where, f"film {name!r} is not named like 00013118_008.png; box not used")
        elif not finding:
            problems.add("blank", where, "the finding is blank; box not used")
        elif made := box(_corners(bbox[:4]), (_SIDE, _SIDE), finding.lower(), f"{where} ({name})", problems):
            boxes = films.setdefault(name, _Film(name, match[1])).findings.setdefault(finding.lower(), {})
            if made.quad in boxes:
                problems.notes["boxes given twice, used once"] += 1
            boxes[made.quad] = made
    problems.count("films", len(named))
    return list(films.values())


def _corners(bbox: list[str]) -> tuple[Any, Any, Any, Any]:
    """x, y, width, height to corners; what are not four numbers stays as it is, for the check of the box to refuse."""
    try:
        x, y, width, height = map(float, bbox)
    except ValueError:
        return (bbox, None, None, None)
    return x, y, x + width, y + height


def _placed(films: Iterable[_Film], root: Path, problems: Problems) -> Iterator[tuple[_Film, Path]]:
    """Films with their files, in the one folder or in those of the twelve archives."""
    folders = [root, root / "images", *sorted(root.glob("images_*")), *sorted(root.glob("images_*/images"))]
    for film in films:
        path = next((folder / film.name for folder in folders if (folder / film.name).is_file()), None)
        if path is None:
            told = f"not in {root}, nor in images or images_* there; film not used"
            problems.add("missing_image", film.name, told)
        else:
            yield film, path
