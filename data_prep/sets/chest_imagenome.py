"""Chest ImaGenome: where the parts of the chest are on frontal films of MIMIC-CXR (anatomy grounding).

Files: Chest ImaGenome 1.0.0 (https://physionet.org/content/chest-imagenome/1.0.0/), annotations only:
`silver_dataset/scene_graph.zip` with `scene_graph/<dicom_id>_SceneGraph.json`, read without unpacking, or the folder
that it unpacks to; `silver_dataset/splits/{train,valid,test}.csv` (subject_id, study_id, dicom_id, path,
ViewPosition) name the images, and `images_to_avoid.csv` beside them those of the patients of the hand-checked gold
set. The images are MIMIC-CXR-JPG's, see `readers/mimic.py`. Of a scene graph, `objects` are read: bbox_name and
original_x1, original_y1, original_x2, original_y2 in pixels of the original image. Its original_width and
original_height are those of the box, so the size of the image comes from MIMIC-CXR's metadata. --negatives reads
`attributes` too: findings that the report says are absent, "anatomicalfinding|no|pneumothorax", and nowhere present.

License: PhysioNet Credentialed Health Data License 1.5.0, as for MIMIC-CXR itself. Counts: 242,072 scene graphs. The
boxes were made by a program and checked on a sample; some leave the image (they are clipped), some have no area or only
lie outside (they are listed). Of about 36 names, the 29 of `REGIONS` are good enough to ask for. Images of gold
patients are left out, and so are those of `FAILED`, which have no scene graph. The splits are MIMIC-CXR's, by patient;
that Chest ImaGenome's own differ is counted (see `data_prep/selection.py`).
"""

import argparse
import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_prep.options import add_options, positive
from data_prep.problems import Problems
from data_prep.readers import box_sets, tables
from data_prep.readers.archives import Reader, folder_text, zip_texts
from data_prep.readers.mimic import Film, Mimic
from data_prep.registry import data_set
from data_prep.sample import Sample, stable_hash
from data_prep.selection import NAMES
from reward_fns.boxes import Box
from reward_fns.errors import UsageError

REGIONS = frozenset(Path(__file__).with_name("chest_imagenome_regions.txt").read_text().splitlines())
"""The names of the regions that are asked for."""

FAILED = frozenset(Path(__file__).with_name("chest_imagenome_failed.txt").read_text().split())
"""Images that are not films, as github.com/ttanida/rgrg found: in the split files, but without a scene graph."""

_LARGEST = 1 << 24  # bytes; scene graphs have about a hundred thousand
_FINDING = re.compile(r'"anatomicalfinding\|(yes|no)\|([a-z][a-z /-]*)"')
_CORNERS = ("original_x1", "original_y1", "original_x2", "original_y2")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, "mimic")
    parser.add_argument("--annotations", type=Path, required=True, help="folder of Chest ImaGenome: silver_dataset/")
    parser.add_argument("--regions", type=positive, default=1, help="regions asked for per image, drawn by its id")
    box_sets.add_negatives(parser, "of those that its report says are absent, by the scene graph")


@data_set(
    "chest_imagenome",
    summary="anatomical regions with their boxes, on MIMIC-CXR's images",
    example="python -m data_prep chest_imagenome --root mimic-cxr-jpg/2.1.0 --annotations chest-imagenome/1.0.0 "
    "--out data/anatomy",
    arguments=add_arguments,
    expected={"scene graphs": 242_072},
)
def samples(options: argparse.Namespace, problems: Problems) -> Iterator[Sample]:
    """Yield one grounding sample per drawn region; unusable annotations go to `problems`."""
    mimic = Mimic(options, problems)
    silver = options.annotations / "silver_dataset"
    own_splits = _own_splits(silver / "splits", problems)
    with _scene_graphs(silver, problems) as read:
        for film in tqdm(mimic.films(own_splits), total=len(own_splits), unit="image", disable=None):
            split = mimic.authority.split(film.subject, film.dicom, own_splits.pop(film.dicom))
            path = mimic.path(film)
            graph = _scene_graph(f"{film.dicom}_SceneGraph.json", read, problems) if split and path else None
            if split is None or path is None or graph is None:
                continue
            regions = _regions(graph, film, problems)
            # By a hash, so that every run draws the same.
            drawn = sorted(regions, key=lambda region: stable_hash(f"{film.dicom}/{region}"))[: options.regions]
            questions = [regions[region] for region in drawn]
            if options.negatives:
                # The report's findings in any region: lists of "category|relation|name", one for each sentence.
                said = _FINDING.findall(json.dumps(graph.get("attributes")))
                denied, present = ([name for relation, name in said if relation == word] for word in ("no", "yes"))
                questions += box_sets.absent_questions(film.dicom, denied, present, options).values()
            picture, row = (path, film.width, film.height), (film.patient, split, "chest_imagenome")
            yield from box_sets.grounding_samples(film.dicom, questions, picture, row, problems)
    mimic.refuse_missing()
    for dicom in own_splits:
        problems.add("unknown_image", dicom, "is in the split files, but has no usable row in MIMIC-CXR's metadata")


def _own_splits(folder: Path, problems: Problems) -> dict[str, str]:
    """The split of each dicom_id by the set's own files, without those to be left out."""
    avoid_file = tables.find(folder, "images_to_avoid.csv", "--annotations")
    avoid = {dicom for dicom, _ in tables.rows(avoid_file, ("dicom_id", "subject_id"), problems)}
    splits: dict[str, str] = {}
    for name in ("train", "valid", "test"):
        path = tables.find(folder, f"{name}.csv", "--annotations")
        for dicom, _ in tables.rows(path, ("dicom_id", "subject_id"), problems):
            if dicom in avoid:
                problems.notes["images of the gold set's patients, left out"] += 1
            elif dicom in FAILED:
                problems.notes["images without a film, left out"] += 1
            elif dicom in splits:
                where = f"{path.name}: {dicom}"
                problems.add("duplicate_id", where, f"is in {splits[dicom]} already; this row is not used")
            else:
                splits[dicom] = NAMES[name]
    return splits


@contextmanager
def _scene_graphs(silver: Path, problems: Problems) -> Iterator[Reader]:
    """A function that reads a scene graph by its name, from the archive if it is there, else from its folder."""
    path = silver / "scene_graph.zip"
    if path.is_file():
        with zip_texts(path, problems, _LARGEST) as (names, read):
            # Copies packed anew have the folder twice or not at all.
            entries = {name.rpartition("/")[2]: name for name in names if name.endswith("_SceneGraph.json")}
            problems.count("scene graphs", len(entries))
            yield lambda name: read(entries.get(name, name))
        return
    folder = silver / "scene_graph"
    if (folder / "scene_graph").is_dir():
        folder /= "scene_graph"
    if not folder.is_dir():
        raise UsageError(f"--annotations: neither {path} nor the folder {folder} is there; download it")
    problems.source(folder, "*_SceneGraph.json")
    problems.count("scene graphs", sum(1 for _ in folder.glob("*_SceneGraph.json")))
    yield partial(folder_text, folder, _LARGEST)


def _scene_graph(name: str, read: Reader, problems: Problems) -> dict[str, Any] | None:
    """The content of a scene graph; None (a problem) without a list of objects."""
    try:
        if (content := read(name)) is None:
            problems.add("missing_scene_graph", name, "the image has no scene graph; not used")
            return None
        graph = json.loads(content)  # the published files hold NaN, which is not JSON, but which Python reads
        if isinstance(graph, dict) and isinstance(graph.get("objects"), list):
            return graph
        detail = "has no list 'objects'"
    except (ValueError, RecursionError) as error:  # unreadable, not UTF-8, not JSON
        detail = str(error)
    problems.add("unreadable_scene_graph", name, f"{detail}; image not used")
    return None


def _regions(graph: dict[str, Any], film: Film, problems: Problems) -> dict[str, box_sets.Question]:
    """A question for each usable region, by its name."""
    boxes: dict[str, Box] = {}
    name, ambiguous = f"{film.dicom}_SceneGraph.json", set()
    for entry in graph["objects"]:
        region = entry.get("bbox_name") if isinstance(entry, dict) else None
        where = f"{name}: {region}"
        if region is None:
            problems.add("missing_key", name, "an object has no bbox_name; not used")
        elif region not in REGIONS:
            problems.notes["boxes of regions that are not asked for"] += 1
        elif missing := [key for key in _CORNERS if entry.get(key) is None]:
            problems.add("missing_key", where, f"no {' or '.join(missing)}; region not used")
        else:
            size, corners = (film.width, film.height), [entry[key] for key in _CORNERS]
            box = box_sets.normalized_box(corners, size, region, where, problems, overshoot=math.inf)
            if box and boxes.setdefault(region, box) != box:
                problems.add("duplicate_region", where, "has two different boxes; region not used")
                ambiguous.add(region)
    return {
        region: box_sets.Question(region.replace(" ", "-"), "SVC" if region == "svc" else region, [box], kind="anatomy")
        for region, box in boxes.items()
        if region not in ambiguous
    }
