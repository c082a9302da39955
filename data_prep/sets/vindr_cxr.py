"""VinDr-CXR: 22 local findings boxed by radiologists on 18,000 postero-anterior films.

Files, from https://physionet.org/content/vindr-cxr/1.0.0/:

- `train/<image_id>.dicom` (15,000) and `test/<image_id>.dicom` (3,000), image_id being 32 hexadecimal digits;
- `annotations/annotations_train.csv`: image_id, rad_id (`rad_ID` in some copies), class_name, x_min, y_min, x_max,
  y_max in pixels of the film. Three of 17 radiologists read each film; one who sees nothing has a row "No finding"
  without a box. `annotations/annotations_test.csv`: the same without the radiologist, a consensus of five.

The variant of Kaggle's VinBigData challenge has `train.csv` with class_id besides, of 14 findings, and no annotations
of its test films. Copies as PNG or JPEG are read from --films; since boxes are in pixels of the DICOM files, --sizes
then names files with their sizes: JSON {image_id: [rows, columns]}, or CSV with image_id and dim0, dim1 (or rows,
columns).

The boxes of all readers for one finding of one film become one set by weighted boxes fusion (`ensemble_boxes`) with IoU
threshold 0.1, no score threshold and scores of 1, rounded to three decimals, for training and test films alike: the
rule of RadVLM (arXiv 2502.03333), which arXiv 2512.10691 builds on.

Patients are not known: each film counts as one. There is no official validation split; --val-share makes one.

Licence: PhysioNet Credentialed Health Data License 1.5.0; Kaggle's competition rules for its variant.

Counts: 15,000 and 3,000 films, 45,000 readings of training films. RadVLM's paper counts 16,089 pairs of training film
and finding, and 2,108 of test film and finding.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_prep.options import probability
from data_prep.problems import Problems, RefusedData
from data_prep.readers import images, pictures, tables
from data_prep.readers.pixel_boxes import box
from data_prep.registry import data_set
from data_prep.sample import Sample, split_of
from reward_fns.boxes import Box
from reward_fns.errors import UsageError

_NO_FINDING = "No finding"
_BOX = ("x_min", "y_min", "x_max", "y_max")
# Names of height and width in tables of sizes; numpy's axes are what Kaggle's converted copies come with.
_SIDES = (("dim0", "dim1"), ("rows", "columns"), ("Rows", "Columns"), ("height", "width"))
_DICOM = (".dicom", ".dcm")
_SUFFIXES = (*_DICOM, ".png", ".jpg", ".jpeg")
# Copies of the same aspect differ by the rounding of their sides.
_SAME_ASPECT = 0.02

Size = tuple[int, int]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of VinDr-CXR."""
    parser.add_argument("--root", type=Path, required=True, help="folder with train/, test/ and annotations/")
    parser.add_argument("--films", type=Path, help="folder of PNG or JPEG copies, itself or in train/ and test/")
    parser.add_argument(
        "--sizes", nargs="+", help='files with the sizes of the originals of --films, or "copies" if they have the same'
    )
    parser.add_argument(
        "--task",
        choices=("grounding", "detection", "both"),
        default="grounding",
        help="ask for one finding of a film, for all of them with their names, or both",
    )
    parser.add_argument("--val-share", type=probability, default=0.0, help="share of training films for validation")
    images.add_arguments(parser)


@dataclass
class _Film:
    """A film with its readings: finding -> reader and corners, as they are written -> place, for messages."""

    id: str
    split: str
    findings: dict[str, dict[tuple[str, str, str, str, str], str]] = field(default_factory=lambda: defaultdict(dict))


@data_set(
    "vindr_cxr",
    summary="boxes of 22 findings by radiologists, on DICOM films or copies of them",
    example="python -m data_prep vindr_cxr --root vindr-cxr/1.0.0 --out data/vindr --workers 8 --store-pixels 1048576",
    arguments=add_arguments,
    expected={"films of train": 15000, "films of test": 3000, "readings of train": 45000},
)
def samples(options: argparse.Namespace, problems: Problems) -> Iterator[Sample]:
    """Per film one grounding sample for each finding, one detection sample, or both; see `--task`.

    Raises:
        UsageError: if a folder, a file, a column or the package `ensemble_boxes` is missing.
        RefusedData: if a file is damaged.
    """
    fuse = _fusion()
    originals = _Originals(options.sizes, problems)
    films = _films(options.root, problems)
    if options.task == "grounding":
        films = [film for film in films if film.findings]
    placed = _placed(tqdm(films, unit="film", disable=None), options, problems)
    pairs = (((film, path), path) for film, path in placed)
    for (film, path), (picture, width, height) in pictures.read(pairs, options, problems):
        size = originals.size(film, path, (width, height))
        if size is None:
            continue
        fused = {}
        for finding, rows in sorted(film.findings.items()):
            made = [box(row[1:], size, finding, where, problems) for row, where in rows.items()]
            # A finding whose every box is unusable is not one that is absent, and so not asked for.
            if kept := [one for one in made if one is not None]:
                fused[finding] = fuse(kept)
        base = partial(
            Sample,
            patient_id=film.id,
            split=_split(film, options.val_share),
            dataset="vindr_cxr",
            task="grounding",
            image=picture,
            width=width,
            height=height,
        )
        if options.task != "detection":
            for finding, boxes in fused.items():
                yield base(id=f"{film.id}-{finding}", phrase=finding, boxes=boxes, kind="abnormality")
        if options.task != "grounding" and len(fused) == len(film.findings):
            together = tuple(sorted((one for boxes in fused.values() for one in boxes), key=lambda one: one.quad))
            yield base(id=f"{film.id}-detection", phrase="abnormalities", boxes=together, kind="detection")


def _split(film: _Film, val_share: float) -> str:
    if film.split == "train":
        return split_of(film.id, (1 - val_share, val_share, 0.0), salt="vindr_cxr")
    return film.split


def _fusion() -> Callable[[list[Box]], tuple[Box, ...]]:
    try:
        from ensemble_boxes import weighted_boxes_fusion
    except ImportError as error:
        raise UsageError("boxes are fused with the package ensemble-boxes: pip install 'cxr-grpo[fusion]'") from error

    def fuse(boxes: list[Box]) -> tuple[Box, ...]:
        ones = [1.0] * len(boxes)
        quads = [[list(one.quad) for one in boxes]]
        fused, _, _ = weighted_boxes_fusion(quads, [ones], [ones], iou_thr=0.1, skip_box_thr=0.0)
        return tuple(sorted((_rounded(quad, boxes[0].label) for quad in fused.tolist()), key=lambda one: one.quad))

    return fuse


def _rounded(quad: list[float], label: str) -> Box:
    """Three decimals; more for a box that is so thin that nothing would be left of it."""
    for decimals in (3, 4, 15):
        x1, y1, x2, y2 = (round(value, decimals) for value in quad)
        if x1 < x2 and y1 < y2:
            break
    return Box(x1, y1, x2, y2, label)


def _films(root: Path, problems: Problems) -> list[_Film]:
    """The films of all annotation files that are there, in the order of the files."""
    found = [
        (split, path)
        for split, names in (("train", ("annotations_train.csv", "train.csv")), ("test", ("annotations_test.csv",)))
        for name in names
        for path in (root / "annotations" / name, root / name)
        if path.is_file()
    ]
    if not found:
        raise UsageError(f"--root {root} has no annotations/annotations_train.csv or _test.csv, and no train.csv")
    films: dict[str, _Film] = {}
    for split, path in found:
        _read(path, split, films, problems)
    return list(films.values())


def _read(path: Path, split: str, films: dict[str, _Film], problems: Problems) -> None:
    reader = next((name for name in ("rad_id", "rad_ID") if name in tables.header(path)), None)
    columns = ("image_id", "class_name", *_BOX, *([reader] if reader else []))
    readings, empty = set(), set()
    for number, (image, finding, *values) in enumerate(tables.rows(path, columns, problems), 2):
        x1, y1, x2, y2 = corners = tuple(value.strip() for value in values[:4])
        row = ("".join(values[4:]), x1, y1, x2, y2)
        where = f"{path.name}, row {number} ({image})"
        film = films.setdefault(image, _Film(image, split))
        if film.split != split:
            problems.add("film_in_two_splits", where, f"the film is in {film.split} already; row not used")
            continue
        readings.add((image, row[0]))
        if finding.strip() == _NO_FINDING:
            empty.add(image)
            if any(corners) and [*map(_number, corners)] != [0, 0, 1, 1]:
                problems.add("unexpected_box", where, f"{_NO_FINDING!r} with the box {corners}; box not used")
        elif not finding.strip() or not all(corners):
            problems.add("missing_box", where, f"finding {finding!r} with the box {corners}; row not used")
        else:
            rows = film.findings[_readable(finding)]
            if row in rows:
                problems.notes["boxes given twice by one reader, used once"] += 1
            rows.setdefault(row, where)
    problems.count(f"films of {split}", len({image for image, _ in readings}))
    problems.count(f"readings of {split}", len(readings))
    if disagreed := sum(bool(films[image].findings) for image in empty):
        problems.notes["films with findings of which a reader says that there are none"] += disagreed


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _readable(finding: str) -> str:
    """As it reads in a question: "Aortic enlargement" as "aortic enlargement", "Enlarged PA" as "enlarged PA"."""
    return " ".join(word if word.isupper() else word.lower() for word in finding.split())


def _placed(films: Iterable[_Film], options: argparse.Namespace, problems: Problems) -> Iterator[tuple[_Film, Path]]:
    """Films with their files."""
    for film in films:
        if not re.fullmatch(r"[\w-]+", film.id):
            problems.add("unsafe_path", film.id, "is no image_id, which has letters and digits only; film not used")
            continue
        folders = (options.films / film.split, options.films) if options.films else (options.root / film.split,)
        paths = [folder / f"{film.id}{suffix}" for folder in folders for suffix in _SUFFIXES]
        path = next(filter(Path.is_file, paths), None)
        if path is None:
            places = " or ".join(map(str, folders))
            problems.add("missing_image", film.id, f"not in {places} ({', '.join(_SUFFIXES)}); film not used")
        else:
            yield film, path


class _Originals:
    """The sizes that boxes refer to: those of the DICOM files."""

    def __init__(self, names: list[str] | None, problems: Problems) -> None:
        self._copies = names == ["copies"]
        self._known = names is not None
        self._problems = problems
        self._sizes: dict[str, Size] = {}
        for path in map(Path, [] if self._copies else names or []):
            rows_of = _json_sizes if path.suffix == ".json" else _table_sizes
            for image, rows, columns in rows_of(path, problems):
                height, width = _number(str(rows)), _number(str(columns))
                if height and width and min(height, width) >= 1 and max(height, width) < math.inf:
                    self._sizes[image] = int(width), int(height)
                else:
                    told = f"{rows!r} rows and {columns!r} columns are no size; not used"
                    problems.add("bad_size", f"{path.name} ({image})", told)

    def size(self, film: _Film, path: Path, picture: Size) -> Size | None:
        """Width and height of the film whose picture, of the given size, was read from a path; None is a problem."""
        if path.suffix in _DICOM or self._copies:
            return images.size(path)
        if not self._known:
            raise UsageError(
                f"{path} is a copy, and boxes are in pixels of the DICOM file: name the file with the original sizes "
                f"by --sizes, or give --sizes copies if the copies have the same size"
            )
        size = self._sizes.get(film.id)
        if size is None:
            self._problems.add("missing_size", film.id, "no file of --sizes has its size; film not used")
            return None
        aspect, original = picture[0] / picture[1], size[0] / size[1]
        if abs(aspect / original - 1) < _SAME_ASPECT:
            return size
        if abs(aspect * original - 1) < _SAME_ASPECT:
            told = f"{size[0]} wide and {size[1]} high, but its copy is turned: rows and columns are swapped"
            self._problems.add("size_mismatch", film.id, f"by --sizes it is {told}; film not used")
            return None
        self._problems.notes["films whose copies were squeezed to another aspect"] += 1
        return size


def _json_sizes(path: Path, problems: Problems) -> Iterator[tuple[str, Any, Any]]:
    problems.source(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        yield from ((image, rows, columns) for image, (rows, columns) in content.items())
    except OSError as error:
        raise UsageError(f"cannot read --sizes {path}: {error.strerror}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise RefusedData(f"--sizes {path} is no JSON object of image_id: [rows, columns]: {error}") from error


def _table_sizes(path: Path, problems: Problems) -> Iterator[tuple[str, ...]]:
    names = tables.header(path)
    sides = next((pair for pair in _SIDES if set(pair) <= set(names)), _SIDES[0])
    yield from tables.rows(path, ("image_id", *sides), problems)
