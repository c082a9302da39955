"""Any box data set in COCO format: one grounding sample per image and category.

Files: one JSON with `images` (`id`, `file_name`, `width`, `height`), `categories` (`id`, `name`) and `annotations`
(`image_id`, `category_id`, `bbox` as [x, y, width, height] in pixels), as https://cocodataset.org/#format-data
describes it. An image is looked for as ROOT/file_name, then as ROOT/<its last part>, because many sets are handed on in
one flat folder while the JSON still names sub-folders.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from PIL import Image
from tqdm import tqdm

from data_prep.options import shares, with_group
from data_prep.problems import Problems
from data_prep.registry import data_set
from data_prep.sample import SPLITS, Sample, split_of, stable_hash
from reward_fns.boxes import Box
from reward_fns.errors import UsageError

_OVERSHOOT = 1.0  # pixels past the border that count as rounding and are clipped


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The COCO loader's own options."""
    parser.add_argument("--root", type=Path, required=True, help="folder of the images")
    parser.add_argument("--annotations", type=Path, required=True, help="COCO JSON file")
    parser.add_argument("--name", default="coco", help="name of the data set in the rows")
    parser.add_argument("--include-empty", action="store_true", help="ask images without boxes for an absent finding")
    parser.add_argument("--patient-regex", type=with_group, help="first group in file_name is the patient (else: file)")
    split = parser.add_mutually_exclusive_group()
    split.add_argument("--split", choices=SPLITS, default="train", help="the split that all images go to")
    split.add_argument("--split-by-hash", type=shares, help="shares of patients, train,val,test: 0.8,0.1,0.1")


@dataclass
class _Film:
    """One entry of `images` with the usable boxes that belong to it, by category name."""

    id: str
    file_name: str
    width: int
    height: int
    annotated: bool = False
    boxes: dict[str, list[Box]] = field(default_factory=lambda: defaultdict(list))


@data_set(
    "coco",
    summary="boxes in COCO format, from any source",
    example="python -m data_prep coco --root films --annotations boxes.json --out data/mine --split train",
    arguments=add_arguments,
)
def samples(options: argparse.Namespace, problems: Problems) -> Iterator[Sample]:
    """One grounding sample per image and category; whatever cannot be used goes to `problems`.

    A box that cannot be used is left out and the others of its image are kept.

    Raises:
        UsageError: if the folder or the JSON file is missing, or the JSON is not in COCO format.
    """
    if not options.root.is_dir():
        raise UsageError(f"--root {options.root} is not a folder; give the one that holds the images")
    content = _read(options.annotations)
    problems.source(options.annotations)
    categories = _categories(content, problems)
    films = _films(content, problems)
    _attach_boxes(content, films, categories, problems)
    last_parts = Counter(Path(film.file_name).name for film in films.values())
    names = sorted(set(categories.values()))
    for film in tqdm(films.values(), unit="image", disable=None):
        wanted = dict(film.boxes)
        if not film.annotated:
            problems.notes["images without boxes"] += 1
            if options.include_empty and names:
                wanted = {names[stable_hash(film.file_name) % len(names)]: []}
        patient = _patient(film.file_name, options.patient_regex, problems)
        path = _image_path(film, options.root, last_parts, problems)
        if patient is None or path is None:
            continue
        for category, boxes in sorted(wanted.items()):
            yield Sample(
                id=f"{film.id}-{category}",
                patient_id=patient,
                split=split_of(patient, options.split_by_hash) if options.split_by_hash else options.split,
                dataset=options.name,
                task="grounding",
                image=path,
                width=film.width,
                height=film.height,
                phrase=_readable(category),
                boxes=tuple(sorted(boxes, key=lambda box: (box.x1, box.y1))),
            )


def _read(path: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read --annotations {path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"--annotations {path} is not valid JSON: {error}") from error
    for part in ("images", "categories", "annotations"):
        entries = content.get(part) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise UsageError(
                f"--annotations {path} is not in COCO format: it needs a list {part!r} of objects at the top level"
            )
    return cast("dict[str, list[dict[str, Any]]]", content)


def _entries(
    content: dict[str, list[dict[str, Any]]], part: str, keys: tuple[str, ...], problems: Problems
) -> Iterator[dict[str, Any]]:
    """The entries of one part that have all keys and an id not seen before."""
    seen = set()
    for place, entry in enumerate(content[part]):
        missing = [key for key in keys if entry.get(key) is None]
        identity = str(entry.get("id", f"at {place}"))
        if missing:
            problems.add("missing_key", f"{part}[{place}]", f"no {' or '.join(missing)}; entry not used")
        elif identity in seen:
            problems.add("duplicate_id", f"{part}[{place}]", f"id {identity} was used before; entry not used")
        else:
            seen.add(identity)
            yield entry


def _categories(content: dict[str, list[dict[str, Any]]], problems: Problems) -> dict[str, str]:
    entries = _entries(content, "categories", ("id", "name"), problems)
    return {str(entry["id"]): str(entry["name"]).strip() for entry in entries}


def _films(content: dict[str, list[dict[str, Any]]], problems: Problems) -> dict[str, _Film]:
    films = {}
    for entry in _entries(content, "images", ("id", "file_name", "width", "height"), problems):
        name, width, height = str(entry["file_name"]), entry["width"], entry["height"]
        if not all(type(side) is int and side > 0 for side in (width, height)):
            problems.add("bad_size", name, f"width {width!r} and height {height!r} must be positive integers")
        else:
            films[str(entry["id"])] = _Film(str(entry["id"]), name, width, height)
    return films


def _attach_boxes(
    content: dict[str, list[dict[str, Any]]], films: dict[str, _Film], categories: dict[str, str], problems: Problems
) -> None:
    for entry in _entries(content, "annotations", ("image_id", "category_id", "bbox"), problems):
        film = films.get(str(entry["image_id"]))
        category = categories.get(str(entry["category_id"]))
        where = f"annotation {entry.get('id')}"
        if film is None:
            problems.add("unknown_image", where, f"there is no usable image with id {entry['image_id']!r}")
            continue
        film.annotated = True
        where = f"{where} of {film.file_name}"
        if not category:
            problems.add("unknown_category", where, f"there is no category with id {entry['category_id']!r}")
        elif entry.get("iscrowd"):
            problems.add("crowd", where, "iscrowd is set: a region with many objects is no box of one finding")
        else:
            box = _box(entry["bbox"], film, category, where, problems)
            if box is not None:
                film.boxes[category].append(box)


def _box(bbox: Any, film: _Film, label: str, where: str, problems: Problems) -> Box | None:
    """[x, y, width, height] in pixels to a normalised box; overshoot of up to a pixel is clipped."""
    try:
        x, y, width, height = (float(value) for value in bbox if type(value) in (int, float))
    except (TypeError, ValueError, OverflowError):
        problems.add("bad_box", where, f"bbox {bbox!r} is not four numbers")
        return None
    if not all(map(math.isfinite, (x, y, width, height))):
        problems.add("bad_box", where, f"bbox {bbox} is not finite")
        return None
    if width <= 0 or height <= 0:
        problems.add("bad_box", where, f"bbox {bbox} has no area: width and height must be positive")
        return None
    overshoot = max(-x, -y, x + width - film.width, y + height - film.height)
    if overshoot > _OVERSHOOT:
        problems.add("box_outside", where, f"bbox {bbox} leaves the {film.width} x {film.height} image")
        return None
    x1, y1 = max(x, 0.0) / film.width, max(y, 0.0) / film.height
    x2, y2 = min((x + width) / film.width, 1.0), min((y + height) / film.height, 1.0)
    if x1 >= x2 or y1 >= y2:
        problems.add("bad_box", where, f"bbox {bbox} has no area within the image")
        return None
    if overshoot > 0:
        problems.notes["boxes clipped to the image"] += 1
    return Box(x1, y1, x2, y2, label)


def _patient(file_name: str, pattern: re.Pattern[str] | None, problems: Problems) -> str | None:
    if pattern is None:
        return Path(file_name).stem
    match = pattern.search(file_name)
    if match is None or not match.group(1):
        problems.add("no_patient", file_name, "--patient-regex finds no patient; image not used")
        return None
    return match.group(1)


def _image_path(film: _Film, root: Path, last_parts: Counter[str], problems: Problems) -> Path | None:
    """Where the image lies, once it was opened and its size agrees."""
    name = Path(film.file_name)
    if name.is_absolute() or ".." in name.parts:
        problems.add("unsafe_path", film.file_name, "file_name must stay within --root")
        return None
    path = root / name
    if not path.is_file():
        path = root / name.name
        if last_parts[name.name] > 1:
            problems.add("missing_image", film.file_name, f"not in {root}, and {name.name} alone is ambiguous")
            return None
    try:
        with Image.open(path) as image:
            image.load()
            size, mode = image.size, image.mode
    except FileNotFoundError:
        problems.add("missing_image", film.file_name, f"neither {root / name} nor {path} exists")
        return None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        problems.add("unreadable_image", film.file_name, f"{path}: {error}")
        return None
    if size != (film.width, film.height):
        told = f"{film.width} x {film.height}"
        problems.add("size_mismatch", film.file_name, f"{path} is {size[0]} x {size[1]}, the JSON says {told}")
        return None
    if mode.startswith(("I", "F")):
        # The model's image reader would cut everything above 255 to white.
        problems.add("deep_image", film.file_name, f"{path} has more than 8 bits a channel; convert it to 8")
        return None
    return path


def _readable(category: str) -> str:
    """A category name as it reads in a question, e.g. "ActiveTuberculosis" as "active tuberculosis"; ILD stays ILD."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|[_\s]+", " ", category).split()
    return " ".join(word if word.isupper() else word.lower() for word in words)
