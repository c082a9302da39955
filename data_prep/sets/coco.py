"""Any box data set in COCO format: one grounding sample per image and category.

Files: one JSON with `images` (`id`, `file_name`, `width`, `height`), `categories` (`id`, `name`) and `annotations`
(`image_id`, `category_id`, `bbox` as [x, y, width, height] in pixels), see https://cocodataset.org/#format-data. An
image is ROOT/file_name or, in one flat folder, ROOT/<its last part>. DICOM and 16-bit films are converted.

Categories are asked for as words: "ActiveTuberculosis" as "active tuberculosis". Those that read the same, such as
"Mass" and "mass", are one. The patient id is the file's name without suffix, or what --patient-regex finds in it.
"""

import argparse
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_prep.options import add_options, with_group
from data_prep.problems import Problems, RefusedData
from data_prep.readers import box_sets, images, jsons, pictures, reports
from data_prep.registry import data_set
from data_prep.sample import Sample, stable_hash
from reward_fns.errors import UsageError

_Content = dict[str, list[dict[str, Any]]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", type=Path, required=True, help="folder of the images")
    parser.add_argument("--annotations", type=Path, required=True, help="COCO JSON file")
    parser.add_argument("--name", default="coco", help="name of the data set in the rows")
    parser.add_argument("--include-empty", action="store_true", help="ask images without boxes for an absent finding")
    box_sets.add_negatives(parser, "of the file's categories")
    parser.add_argument("--patient-regex", type=with_group, help="first group in file_name is the patient (else: file)")
    add_options(parser, "splits", "images")


@dataclass
class _Film:
    """One entry of `images` with a question for each category that it has a box of."""

    id: str
    file_name: str
    size: tuple[int, int]
    annotated: bool = False
    questions: dict[str, box_sets.Question] = field(default_factory=dict)


@data_set(
    "coco",
    summary="boxes in COCO format, from any source",
    example="python -m data_prep coco --root films --annotations boxes.json --out data/mine --split train",
    arguments=add_arguments,
)
def samples(options: argparse.Namespace, problems: Problems) -> Iterator[Sample]:
    """Yield one grounding sample per image and category; unusable annotations go to `problems`."""
    root = reports.folder(options.root, "--root", "the images")
    content = jsons.read(options.annotations, problems)
    for part in ("images", "categories", "annotations"):
        entries = content.get(part) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            wrong = f"is not in COCO format: it needs a list {part!r} of objects"
            raise UsageError(f"--annotations {options.annotations} {wrong}")
    categories = _read_categories(content, problems)
    films = _read_films(content, problems)
    _attach_boxes(content, films, categories, problems)
    _check_form(content, films, options.annotations)
    names = sorted(set(categories.values()))
    for film in films.values():
        absent = box_sets.absent_questions(film.file_name, names, film.questions, options, kind="finding")
        if not film.annotated:
            problems.notes["images without boxes"] += 1
            if options.include_empty and names:
                name = names[stable_hash(film.file_name) % len(names)]
                absent[name] = box_sets.Question(name, name, kind="finding")
        film.questions |= absent
    last_parts = Counter(Path(film.file_name).name for film in films.values())
    located = (
        ((film, patient), _image_path(film, root, last_parts, problems))
        for film in tqdm(films.values(), unit="image", disable=None)
        if (patient := _patient(film.file_name, options.patient_regex, problems))
    )
    for (film, patient), picture in pictures.read(located, options, problems):
        row = (patient, reports.split(options, patient), options.name)
        questions = [film.questions[name] for name in sorted(film.questions)]
        yield from box_sets.grounding_samples(film.id, questions, picture, row, problems)


def _entries(content: _Content, part: str, keys: tuple[str, ...], problems: Problems) -> Iterator[dict[str, Any]]:
    """The entries of one part that have all keys, an id not seen before and only text that UTF-8 can hold."""
    seen = set()
    for place, entry in enumerate(content[part]):
        where, identity = f"{part}[{place}]", str(entry.get("id"))
        if missing := [key for key in keys if entry.get(key) is None]:
            problems.add("missing_key", where, f"no {' or '.join(missing)}; entry not used")
        elif identity in seen:
            problems.add("duplicate_id", where, f"id {identity} was used before; entry not used")
        elif wrong := jsons.defect([entry[key] for key in keys]):
            problems.add("bad_text", where, f"{wrong}; entry not used")
        else:
            seen.add(identity)
            yield entry


def _read_categories(content: _Content, problems: Problems) -> dict[str, str]:
    """Category id -> name as it reads in a question."""
    categories = {}
    for entry in _entries(content, "categories", ("id", "name"), problems):
        if name := box_sets.readable(str(entry["name"])):
            categories[str(entry["id"])] = name
        else:
            problems.add("blank", f"category {entry['id']}", f"the name {entry['name']!r} has no word; not used")
    return categories


def _read_films(content: _Content, problems: Problems) -> dict[str, _Film]:
    films = {}
    for entry in _entries(content, "images", ("id", "file_name", "width", "height"), problems):
        name, width, height = str(entry["file_name"]), entry["width"], entry["height"]
        if all(type(side) is int and side > 0 for side in (width, height)):
            films[str(entry["id"])] = _Film(str(entry["id"]), name, (width, height))
        else:
            problems.add("bad_size", name, f"width {width!r} and height {height!r} must be positive integers")
    return films


def _attach_boxes(content: _Content, films: dict[str, _Film], categories: dict[str, str], problems: Problems) -> None:
    seen = set()
    for place, entry in enumerate(content["annotations"]):
        identity = repr(entry.get("id", f"at {place}"))
        where = f"annotation {identity}"
        film, category = films.get(str(entry.get("image_id"))), categories.get(str(entry.get("category_id")))
        if film is None:
            problems.add("unknown_image", where, f"no usable image has the id {entry.get('image_id')!r}")
            continue
        film.annotated = True
        where = f"{where} of {film.file_name}"
        if category is None:
            problems.add("unknown_category", where, f"no usable category has the id {entry.get('category_id')!r}")
            continue
        box = None
        if identity in seen:
            problems.add("duplicate_id", where, "the id was used before; box not used")
        elif entry.get("iscrowd"):
            problems.add("crowd", where, "iscrowd is set: a region with many objects is not the box of one finding")
        else:
            box = box_sets.normalized_box(entry.get("bbox"), film.size, category, where, problems, form="xywh")
        seen.add(identity)
        film.questions.setdefault(category, box_sets.Question(category, category, kind="finding")).boxes.append(box)


def _check_form(content: _Content, films: dict[str, _Film], path: Path) -> None:
    """Refuse boxes that are shares of the image, or corners instead of corner and size."""
    boxes = [
        (*entry["bbox"], *film.size)
        for entry in content["annotations"]
        if (film := films.get(str(entry.get("image_id"))))
        and isinstance(entry.get("bbox"), list)
        and [type(value) in (int, float) for value in entry["bbox"]] == [True] * 4
    ]
    box_sets.refuse_shares(max((max(box[:4]) for box in boxes), default=0), path)
    outside = any(x + w > width + 1 or y + h > height + 1 for x, y, w, h, width, height in boxes)
    if outside and all(x < w <= width and y < h <= height for x, y, w, h, width, height in boxes):
        wrong = "every bbox fits its image as [x1, y1, x2, y2] and some do not as COCO's [x, y, width, height]"
        raise RefusedData(f"{path}: {wrong}; convert them")


def _patient(file_name: str, pattern: re.Pattern[str] | None, problems: Problems) -> str | None:
    match = pattern.search(file_name) if pattern else None
    patient = match[1] if match else None if pattern else Path(file_name).stem
    if not patient:
        problems.add("no_patient", file_name, "--patient-regex finds no patient; image not used")
    return patient


def _image_path(film: _Film, root: Path, last_parts: Counter[str], problems: Problems) -> Path | None:
    """Where the image lies, if its size is that of the JSON."""
    name = Path(film.file_name)
    if name.is_absolute() or ".." in name.parts:
        problems.add("unsafe_path", film.file_name, "file_name must stay within --root")
        return None
    path = box_sets.find_film([root], [film.file_name, *([name.name] if last_parts[name.name] == 1 else [])], problems)
    try:
        if path is None or (size := images.size(path)) == film.size:
            return path
        kind, detail = "size_mismatch", "{} is {} x {}, the JSON says {} x {}".format(path, *size, *film.size)
    except images.Unreadable as error:
        kind, detail = "unreadable_image", str(error)
    problems.add(kind, film.file_name, f"{detail}; image not used")
    return None
