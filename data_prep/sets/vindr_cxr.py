"""VinDr-CXR: 22 local findings boxed by radiologists on 18,000 postero-anterior films.

Files, from https://physionet.org/content/vindr-cxr/1.0.0/:

- `train/<image_id>.dicom` (15,000) and `test/<image_id>.dicom` (3,000), image_id being 32 hexadecimal digits;
- `annotations/annotations_train.csv`: image_id, rad_id (or `rad_ID`), class_name, x_min, y_min, x_max, y_max in pixels
  of the film. Three of 17 radiologists read each film; one who sees nothing has a row "No finding" without a box.
  `annotations/annotations_test.csv`: the same without the radiologist, a consensus of five.

Kaggle's VinBigData challenge has `train.csv` with class_id besides, of 14 findings, and no annotations of its test
films. All tables are read as .csv.gz too. --films are copies as PNG or JPEG; boxes are in pixels of the DICOM files,
whose sizes --sizes gives: JSON {image_id: [rows, columns]}, or CSV with image_id and dim0, dim1 (or rows, columns).

The boxes of all readers for one finding of one film become one set by weighted boxes fusion (`ensemble_boxes`) with IoU
threshold 0.1, no score threshold and scores of 1, rounded to three decimals, for training and test films alike: the
rule of RadVLM (arXiv 2502.03333), which arXiv 2512.10691 builds on. Readers looked for every finding on every film, so
--negatives draws from all findings of the tables. Most films have no finding, so most detection rows have no box.

Each film counts as a patient, named by its image_id; --val-share makes a validation split. License: PhysioNet
Credentialed Health Data License 1.5.0; Kaggle's competition rules for its variant. Counts: 15,000 and 3,000 films,
45,000 readings of training films; RadVLM's paper counts 16,089 pairs of training film and finding, 2,108 of test.
"""

import argparse
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_prep.options import add_options, probability
from data_prep.problems import Problems, RefusedData
from data_prep.readers import box_sets, images, jsons, pictures, tables
from data_prep.registry import data_set
from data_prep.sample import Sample, split_of
from reward_fns.boxes import Box
from reward_fns.errors import UsageError

_TABLES = (("train", "annotations_train.csv"), ("train", "train.csv"), ("test", "annotations_test.csv"))
# Names of height and width; numpy's axes are what Kaggle's converted copies come with.
_SIDES = (("dim0", "dim1"), ("rows", "columns"), ("Rows", "Columns"), ("height", "width"))
_DICOM = (".dicom", ".dcm")
_SUFFIXES = (*_DICOM, ".png", ".jpg", ".jpeg")
_SAME_ASPECT = 0.02  # copies differ by the rounding of their sides
# Of this many boxes, some lie in the right or lower 40 % of their film, unless they are in pixels of smaller copies.
_MANY_BOXES, _REACH = 100, 0.6

Size = tuple[int, int]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", type=Path, required=True, help="folder with train/, test/ and annotations/")
    parser.add_argument("--films", type=Path, help="folder of PNG or JPEG copies, itself or in train/ and test/")
    parser.add_argument("--sizes", nargs="+", help='files with sizes of the originals of --films, or "copies" if equal')
    tasks = "ask for one finding of a film, for all of them with their names, or both"
    parser.add_argument("--task", choices=("grounding", "detection", "both"), default="grounding", help=tasks)
    box_sets.add_negatives(parser, "of all findings in the tables (not with --task detection)")
    parser.add_argument("--val-share", type=probability, default=0.0, help="share of training films for validation")
    add_options(parser, "images")


@dataclass
class _Film:
    """A film with its readings: finding -> reader and corners as written -> where they are, for messages."""

    id: str
    split: str
    findings: dict[str, dict[tuple[str, str, str, str, str], str]] = field(default_factory=lambda: defaultdict(dict))
    absent: dict[str, box_sets.Question] = field(default_factory=dict)
    unnamed: bool = False  # has a box without a finding, so its detection row would lack it


@data_set(
    "vindr_cxr",
    summary="boxes of 22 findings by radiologists, on DICOM films or copies of them",
    example="python -m data_prep vindr_cxr --root vindr-cxr/1.0.0 --out data/vindr --workers 8 --store-pixels 1048576",
    arguments=add_arguments,
    expected={"films of train": 15000, "films of test": 3000, "readings of train": 45000},
)
def samples(options: argparse.Namespace, problems: Problems) -> Iterator[Sample]:
    """Yield per film one grounding sample for each finding, one detection sample, or both; see `--task`."""
    _fuse([])  # a missing package is reported before films are read
    copies = options.sizes == ["copies"]
    sizes = {} if copies else _read_sizes(options.sizes or [], problems)
    films = _read_films(options.root, problems)
    if options.task != "detection":
        looked_for = {finding for film in films for finding in film.findings}
        for film in films:
            film.absent = box_sets.absent_questions(film.id, looked_for, film.findings, options)
    if options.task == "grounding":
        films = [film for film in films if film.findings or film.absent]
    located = (
        ((film, path), path)
        for film in tqdm(films, unit="film", disable=None)
        if (path := _film_path(film, options, problems))
    )
    own = (1 - options.val_share, options.val_share, 0.0)
    ends: list[float] = []
    for (film, path), picture in pictures.read(located, options, problems):
        if path.suffix in _DICOM or copies:
            size: Size | None = images.size(path)
        elif options.sizes:
            size = _original_size(film.id, picture[1:], sizes, problems)
        else:
            advice = "give the file with the original sizes as --sizes, or --sizes copies if these are the same"
            raise UsageError(f"{path} is a copy, and boxes are in pixels of the DICOM file: {advice}")
        if size is None:
            continue
        questions = []
        for finding, readings in sorted(film.findings.items()):
            boxes = [box_sets.normalized_box(row[1:], size, finding, at, problems) for row, at in readings.items()]
            usable = [box for box in boxes if box is not None]
            ends += [max(box.x2, box.y2) for box in usable]
            fused = _fuse(usable) if len(usable) == len(boxes) else boxes
            questions.append(box_sets.Question(finding, finding, fused))
        asked = [*questions, *film.absent.values()] if options.task != "detection" else []
        if options.task != "grounding" and not film.unnamed:
            together = [box for question in questions for box in question.boxes]
            asked.append(box_sets.Question("detection", "abnormalities", together, kind="detection"))
        split = split_of(film.id, own, salt="vindr_cxr") if film.split == "train" else film.split
        yield from box_sets.grounding_samples(film.id, asked, picture, (film.id, split, "vindr_cxr"), problems)
    if len(ends) >= _MANY_BOXES and max(ends) < _REACH:
        cause = "tables or --sizes are in pixels of other copies; give boxes and sizes of the DICOM files"
        raise RefusedData(f"none of {len(ends)} boxes reaches {_REACH:.0%} of its film's width or height: {cause}")


def _fuse(boxes: list[Box]) -> list[Box | None]:
    """One set from the boxes of all readers for a finding, rounded to three decimals."""
    try:
        from ensemble_boxes import weighted_boxes_fusion
    except ImportError as error:
        raise UsageError("boxes are fused with the package ensemble-boxes: pip install 'cxr-grpo[fusion]'") from error
    ones = [1.0] * len(boxes)
    quads = [[list(box.quad) for box in boxes]]
    rounded: list[Box | None] = []
    for quad in weighted_boxes_fusion(quads, [ones], [ones], iou_thr=0.1, skip_box_thr=0.0)[0].tolist():
        for decimals in (3, 4, 15):  # more than three for a box so thin that nothing would be left of it
            x1, y1, x2, y2 = (round(value, decimals) for value in quad)
            if x1 < x2 and y1 < y2:
                break
        rounded.append(Box(x1, y1, x2, y2, boxes[0].label))
    return rounded


def _read_films(root: Path, problems: Problems) -> list[_Film]:
    """The films of all annotation files, in the order of the files."""
    annotated = [
        (split, path)
        for split, name in _TABLES
        for folder in (root / "annotations", root)
        if (path := next(filter(Path.is_file, (folder / name, folder / f"{name}.gz")), None))
    ]
    if not annotated:
        raise UsageError(f"--root {root} has no annotations/annotations_train.csv or _test.csv, and no train.csv (.gz)")
    films: dict[str, _Film] = {}
    for split, path in annotated:
        _read_table(path, split, films, problems)
    return list(films.values())


def _read_table(path: Path, split: str, films: dict[str, _Film], problems: Problems) -> None:
    reader = [name for name in ("rad_id", "rad_ID") if name in tables.header(path)][:1]
    columns = ("image_id", "class_name", "x_min", "y_min", "x_max", "y_max", *reader)
    readings, empty, largest = set(), set(), 0.0
    for number, (image, finding, *values) in enumerate(tables.rows(path, columns, problems), 2):
        x1, y1, x2, y2 = corners = tuple(value.strip() for value in values[:4])
        row = ("".join(values[4:]), x1, y1, x2, y2)
        where = f"{path.name}, row {number} ({image})"
        film = films.setdefault(image, _Film(image, split))
        if film.split != split:
            problems.add("film_in_two_splits", where, f"the film is in {film.split} already; row not used")
            continue
        readings.add((image, row[0]))
        if finding.strip() == "No finding":
            empty.add(image)
            if any(corners) and [*map(_number, corners)] != [0, 0, 1, 1]:
                problems.add("unexpected_box", where, f"'No finding' with the box {corners}; box not used")
        elif not (finding := box_sets.readable(finding)):
            problems.add("blank", where, f"a box {corners} without a finding; row not used")
            film.unnamed = True
        else:
            if row in film.findings[finding]:
                problems.notes["boxes given twice by one reader, used once"] += 1
            film.findings[finding].setdefault(row, where)
            largest = max([largest, *map(_number, corners)])
    box_sets.refuse_shares(largest, path)
    problems.count(f"films of {split}", len({image for image, _ in readings}))
    problems.count(f"readings of {split}", len(readings))
    if disagreed := sum(bool(films[image].findings) for image in empty):
        problems.notes["films with findings on which another reader saw none"] += disagreed


def _number(text: Any) -> float:
    """The number, or 0 for anything that is not a finite one."""
    with suppress(TypeError, ValueError):
        return value if math.isfinite(value := float(text)) else 0.0
    return 0.0


def _film_path(film: _Film, options: argparse.Namespace, problems: Problems) -> Path | None:
    if not re.fullmatch(r"[\w-]+", film.id):
        problems.add("unsafe_path", film.id, "not a valid image_id: letters and digits only; film not used")
        return None
    folders = (options.films / film.split, options.films) if options.films else (options.root / film.split,)
    return box_sets.find_film(folders, [f"{film.id}{suffix}" for suffix in _SUFFIXES], problems)


def _read_sizes(names: list[str], problems: Problems) -> dict[str, Size]:
    """Image id -> width and height of its DICOM file."""
    sizes = {}
    for path in map(Path, names):
        listed: Iterable[tuple[Any, ...]]
        if path.suffix == ".json":
            content = jsons.read(path, problems)
            try:
                listed = [(image, rows, columns) for image, (rows, columns) in content.items()]
            except (TypeError, ValueError, AttributeError) as error:
                raise RefusedData(f"--sizes {path} is not {{image_id: [rows, columns]}} in JSON: {error}") from error
        else:
            header = tables.header(path)
            sides = next((pair for pair in _SIDES if set(pair) <= set(header)), _SIDES[0])
            listed = tables.rows(path, ("image_id", *sides), problems)
        for image, rows, columns in listed:
            width, height = int(_number(columns)), int(_number(rows))
            if min(width, height) >= 1:
                sizes[image] = width, height
            else:
                detail = f"{rows!r} rows and {columns!r} columns are not a size; not used"
                problems.add("bad_size", f"{path.name} ({image!r})", detail)
    return sizes


def _original_size(film: str, picture: Size, sizes: dict[str, Size], problems: Problems) -> Size | None:
    """Width and height by --sizes; None (a problem) if missing, or if its copy is turned."""
    if film not in sizes:
        problems.add("missing_size", film, "no file of --sizes has its size; film not used")
        return None
    width, height = size = sizes[film]
    aspect, original = picture[0] / picture[1], width / height
    if abs(aspect / original - 1) >= _SAME_ASPECT:
        if abs(aspect * original - 1) < _SAME_ASPECT:
            wrong = "but its copy is turned: rows and columns are swapped; film not used"
            problems.add("size_mismatch", film, f"{width} x {height} by --sizes, {wrong}")
            return None
        problems.notes["films whose copies were squeezed to another aspect"] += 1
    return size
