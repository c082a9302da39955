"""MS-CXR: where on a chest film a phrase of its report is seen (phrase grounding).

Files: `MS_CXR_Local_Alignment_v1.0.0.csv` or `.json` (the release is called 0.1) or
`MS_CXR_Local_Alignment_v1.1.0.csv` or `.json`, from https://physionet.org/content/ms-cxr/. The CSV has dicom_id,
category_name, label_text, path (`files/p10/p10000032/s50414267/<dicom_id>.jpg`), x, y, w, h, image_width,
image_height, and in 1.1.0 split; the box is the upper left corner and the size in pixels of the original. The JSON is
in COCO format with path, width and height in `images` and label_text (1.1.0: split) in `annotations`. One row is one
box: boxes of one image, category and text belong together and make one sample. The images are MIMIC-CXR-JPG's, see
`data_prep/readers/mimic.py`.

Licence: PhysioNet Credentialed Health Data License 1.5.0, as for MIMIC-CXR itself.

Counts: 1,162 phrases with 1,448 boxes on 1,047 images, in eight categories. The splits are MIMIC-CXR's, by patient;
that 1.1.0 says otherwise is counted (see `data_prep/splits.py`).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from data_prep.problems import Problems, RefusedData
from data_prep.readers import tables
from data_prep.readers.mimic import Film, Mimic, ids
from data_prep.readers.mimic import add_arguments as mimic_arguments
from data_prep.readers.pixel_boxes import box
from data_prep.readers.sections import line
from data_prep.registry import data_set
from data_prep.sample import Sample, stable_hash
from data_prep.splits import NAMES
from reward_fns.boxes import Box
from reward_fns.errors import UsageError

_COLUMNS = ("dicom_id", "category_name", "label_text", "path", "x", "y", "w", "h", "image_width", "image_height")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of MS-CXR."""
    mimic_arguments(parser)
    parser.add_argument(
        "--annotations", type=Path, required=True, help="MS_CXR_Local_Alignment_v1.0.0 or v1.1.0, .csv or .json"
    )


class _Row(NamedTuple):
    """One box as the files give it; `split` is "" in 1.0.0."""

    where: str
    dicom: str
    category: str
    text: str
    path: str
    box: tuple[Any, Any, Any, Any]
    width: Any
    height: Any
    split: str


@dataclass
class _Phrase:
    film: Film
    split: str
    category: str
    text: str
    boxes: dict[tuple[float, ...], Box] = field(default_factory=dict)


@data_set(
    "ms_cxr",
    summary="phrases of reports with their boxes, on MIMIC-CXR's images",
    example="python -m data_prep ms_cxr --root mimic-cxr-jpg/2.1.0 --annotations MS_CXR_Local_Alignment_v1.1.0.csv "
    "--out data/ms_cxr",
    arguments=add_arguments,
    expected={"boxes": 1448, "phrases": 1162, "images": 1047},
)
def samples(options: argparse.Namespace, problems: Problems) -> Iterator[Sample]:
    """One grounding sample per image, category and phrase; whatever cannot be used goes to `problems`.

    Raises:
        UsageError: if a folder, a file or a column is missing.
        RefusedData: if a file is damaged or a patient is in two splits.
    """
    mimic = Mimic(options, problems)
    phrases: dict[tuple[str, str, str], _Phrase] = {}
    named: set[tuple[str, str, str]] = set()
    for row in _rows(options.annotations, problems):
        key = row.dicom, row.category, line(row.text)
        problems.count("boxes")
        named.add(key)
        if all(key):
            _add(row, key, phrases, mimic, problems)
        else:
            problems.add("blank", row.where, "dicom_id, category and text must not be blank; box not used")
    problems.count("phrases", len(named))
    problems.count("images", len({dicom for dicom, _, _ in named}))
    for phrase in tqdm(phrases.values(), unit="phrase", disable=None):
        path = mimic.path(phrase.film)
        if phrase.boxes and path is not None:
            yield Sample(
                id=f"{phrase.film.dicom}-{phrase.category}-{stable_hash(phrase.text):016x}",
                patient_id=phrase.film.patient,
                split=phrase.split,
                dataset="ms_cxr",
                task="grounding",
                image=path,
                width=phrase.film.width,
                height=phrase.film.height,
                phrase=phrase.text,
                # The files' order of a phrase's boxes has no meaning.
                boxes=tuple(phrase.boxes[corners] for corners in sorted(phrase.boxes)),
                kind="phrase",
            )


def _add(
    row: _Row, key: tuple[str, str, str], phrases: dict[tuple[str, str, str], _Phrase], mimic: Mimic, problems: Problems
) -> None:
    """Give a row's box to its phrase; the first row of a phrase makes it."""
    size = mimic.size(str(row.width), str(row.height), row.where)
    if size is None:
        return
    known = phrases.get(key)
    if known is None:
        patient = ids(row.path)
        if patient is None or patient[2] != row.dicom:
            told = f"path {row.path!r} is not files/p../p<subject>/s<study>/{row.dicom}.jpg; box not used"
            problems.add("unsafe_path", row.where, told)
            return
        split = mimic.authority.split(patient[0], row.where, own=_own_split(row, problems))
        if split is None:
            return
        film = Film(row.dicom, patient[0], patient[1], "", *size)
        known = phrases[key] = _Phrase(film, split, row.category, key[2])
    if size != (known.film.width, known.film.height):
        told = f"image size {size[0]} x {size[1]}, but {known.film.width} x {known.film.height} in another row"
        problems.add("size_mismatch", row.where, f"{told}; box not used")
        return
    made = box(row.box, size, row.category, row.where, problems)
    if made is not None:
        if made.quad in known.boxes:
            problems.notes["boxes given twice, used once"] += 1
        known.boxes[made.quad] = made


def _own_split(row: _Row, problems: Problems) -> str | None:
    if row.split and row.split not in NAMES:
        problems.notes[f"boxes of unknown split {row.split!r}; MIMIC-CXR's is followed"] += 1
    return NAMES.get(row.split)


def _rows(path: Path, problems: Problems) -> Iterator[_Row]:
    if path.suffix == ".json":
        return _rows_of_json(path, problems)
    return _rows_of_table(path, problems)


def _rows_of_table(path: Path, problems: Problems) -> Iterator[_Row]:
    columns = (*_COLUMNS, "split") if "split" in tables.header(path) else _COLUMNS
    for number, values in enumerate(tables.rows(path, columns, problems), 1):
        dicom, category, text, place, x, y, w, h, width, height, *split = values
        where = f"{path.name}, box {number} ({dicom})"
        corners = _corners((x, y, w, h))
        yield _Row(where, dicom, category, text, place, corners, width, height, split[0] if split else "")


def _corners(bbox: Any) -> tuple[Any, Any, Any, Any]:
    """x, y, width, height to corners; what are not four numbers stays as it is, for the check of the box to refuse."""
    try:
        x, y, w, h = (float(value) for value in bbox)
    except (TypeError, ValueError):
        return (bbox, None, None, None)
    return x, y, x + w, y + h


def _rows_of_json(path: Path, problems: Problems) -> Iterator[_Row]:
    problems.source(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        images = {image["id"]: image for image in content["images"]}
        categories = {category["id"]: str(category["name"]) for category in content["categories"]}
        annotations = list(content["annotations"])
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise RefusedData(f"{path} is not valid JSON: {error}; get it again") from error
    except (KeyError, TypeError) as error:
        raise RefusedData(f"{path} needs images, categories and annotations as MS-CXR has them: {error}") from error
    for number, entry in enumerate(annotations, 1):
        where = f"{path.name}, annotation {number}"
        try:
            image = images[entry["image_id"]]
            place = image["path"]
            yield _Row(
                where,
                place.rpartition("/")[2].partition(".")[0],
                categories[entry["category_id"]],
                str(entry["label_text"]),
                place,
                _corners(entry["bbox"]),
                image["width"],
                image["height"],
                str(entry.get("split") or ""),
            )
        except (KeyError, TypeError, AttributeError) as error:
            problems.add("missing_key", where, f"no {error}, or it names what there is not; box not used")
