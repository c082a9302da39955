"""MS-CXR: where on a chest film a phrase of its report is seen (phrase grounding).

Files: `MS_CXR_Local_Alignment_v1.0.0` (the release is called 0.1) or `_v1.1.0`, each as .csv or .json, from
https://physionet.org/content/ms-cxr/. The CSV has dicom_id, category_name, label_text, path
(`files/p10/p10000032/s50414267/<dicom_id>.jpg`), x, y, w, h, image_width, image_height, and in 1.1.0 split; the box is
the upper left corner and the size in pixels of the original. The JSON is in COCO format with path, width and height in
`images` and label_text (1.1.0: split) in `annotations`. One row is one box: boxes of one image, category and text
belong together and make one sample. The images are MIMIC-CXR-JPG's, see `data_prep/readers/mimic.py`.

Only phrases with a box were annotated, so --negatives asks for the categories that the film's own report says are
absent: 0.0 in MIMIC-CXR-JPG's `mimic-cxr-2.0.0-chexpert.csv`.

License: PhysioNet Credentialed Health Data License 1.5.0, as for MIMIC-CXR itself. Counts: 1,162 phrases with 1,448
boxes on 1,047 images, in eight categories. The splits are MIMIC-CXR's, by patient; that 1.1.0 says otherwise is counted
(see `data_prep/selection.py`). The patient id is the subject's folder, "p10000032".
"""

import argparse
from collections import defaultdict, namedtuple
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from data_prep.options import add_options
from data_prep.problems import Problems, RefusedData
from data_prep.readers import box_sets, jsons, tables
from data_prep.readers.mimic import Film, Mimic, ids
from data_prep.readers.sections import line
from data_prep.registry import data_set
from data_prep.sample import Sample, stable_hash
from data_prep.selection import NAMES
from reward_fns.boxes import Box

_COLUMNS = ("dicom_id", "category_name", "label_text", "path", "x", "y", "w", "h", "image_width", "image_height")
_LABELS = "mimic-cxr-2.0.0-chexpert.csv"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, "mimic")
    parser.add_argument("--annotations", type=Path, required=True, help="MS_CXR_Local_Alignment_v1.?.0, .csv or .json")
    box_sets.add_negatives(parser, f"of those that the film's report says are absent, by {_LABELS} in --root")


_Row = namedtuple("_Row", "where dicom category text path bbox width height split")  # of a box; split "" in 1.0.0


@data_set(
    "ms_cxr",
    summary="phrases of reports with their boxes, on MIMIC-CXR's images",
    example="python -m data_prep ms_cxr --root mimic-cxr-jpg/2.1.0 --annotations MS_CXR_Local_Alignment_v1.1.0.csv "
    "--out data/ms_cxr",
    arguments=add_arguments,
    expected={"boxes": 1448, "phrases": 1162, "images": 1047},
)
def samples(options: argparse.Namespace, problems: Problems) -> Iterator[Sample]:
    """Yield one grounding sample per image, category and phrase; unusable annotations go to `problems`."""
    mimic = Mimic(options, problems)
    films: dict[str, tuple[Film, str]] = {}
    phrases: dict[tuple[str, str, str], box_sets.Question] = {}
    for row in (_json_rows if options.annotations.suffix == ".json" else _table_rows)(options.annotations, problems):
        text = line(row.text)
        key = row.dicom, row.category, text
        problems.count("boxes")
        if wrong := jsons.defect([*key]):
            problems.add("bad_text", row.where, f"{wrong}; box not used")
        elif all(key):
            name = f"{row.category}-{stable_hash(text):016x}"
            box = _read_box(row, films, mimic, problems)
            phrases.setdefault(key, box_sets.Question(name, text, kind="phrase")).boxes.append(box)
        else:
            problems.add("blank", row.where, "dicom_id, category and text must not be blank; box not used")
    problems.count("phrases", len(phrases))
    problems.count("images", len({dicom for dicom, _, _ in phrases}))
    absent: dict[str, set[str]] = {}  # by study, what its report says is absent, in the words of a question
    if options.negatives:
        labels = tables.find(options.root, _LABELS, "--negatives")
        names = sorted({category for _, category, _ in phrases} & set(tables.header(labels)))
        for study, _, *values in tables.rows(labels, ("study_id", "subject_id", *names), problems):
            denied = [name for name, value in zip(names, values, strict=True) if value in ("0", "0.0")]
            absent[study] = set(map(box_sets.readable, denied))
    asked, present = defaultdict(list), defaultdict(set)
    for (dicom, category, _), question in phrases.items():
        asked[dicom].append(question)
        present[dicom].add(box_sets.readable(category))
    for dicom, (image, split) in tqdm(films.items(), unit="image", disable=None):
        negatives = box_sets.absent_questions(dicom, absent.get(image.study, ()), present[dicom], options)
        if path := mimic.path(image):
            picture, row_of = (path, image.width, image.height), (image.patient, split, "ms_cxr")
            questions = [*asked[dicom], *negatives.values()]
            yield from box_sets.grounding_samples(dicom, questions, picture, row_of, problems)
    mimic.refuse_missing()


def _read_box(row: _Row, films: dict[str, tuple[Film, str]], mimic: Mimic, problems: Problems) -> Box | None:
    """A row's box, None (a problem) if malformed; an image's first row adds it to the films, with its split."""
    size = mimic.size(str(row.width), str(row.height), row.where)
    if size is None:
        return None
    if row.dicom not in films:
        patient = ids(row.path)
        if patient is None or patient[2] != row.dicom:
            detail = f"path {row.path!r} is not files/p../p<subject>/s<study>/{row.dicom}.jpg; box not used"
            problems.add("unsafe_path", row.where, detail)
            return None
        if row.split and row.split not in NAMES:
            problems.notes[f"images of unknown split {row.split!r}; MIMIC-CXR's is followed"] += 1
        split = mimic.authority.split(patient[0], row.where, own=NAMES.get(row.split))
        if split is None:
            return None
        films[row.dicom] = Film(row.dicom, patient[0], patient[1], "", *size), split
    image, _ = films[row.dicom]
    if size != (image.width, image.height):
        detail = f"image size {size[0]} x {size[1]}, but {image.width} x {image.height} in another row; box not used"
        problems.add("size_mismatch", row.where, detail)
        return None
    return box_sets.normalized_box(row.bbox, size, row.category, row.where, problems, form="xywh")


def _table_rows(path: Path, problems: Problems) -> Iterator[_Row]:
    columns = (*_COLUMNS, "split") if "split" in tables.header(path) else _COLUMNS
    for number, values in enumerate(tables.rows(path, columns, problems), 1):
        dicom, category, text, place, x, y, w, h, width, height, *split = values
        where = f"{path.name}, box {number} ({dicom})"
        yield _Row(where, dicom, category, text, place, (x, y, w, h), width, height, split[0] if split else "")


def _json_rows(path: Path, problems: Problems) -> Iterator[_Row]:
    content = jsons.read(path, problems)
    try:
        images = {image["id"]: image for image in content["images"]}
        categories = {category["id"]: str(category["name"]) for category in content["categories"]}
        annotations = list(content["annotations"])
    except (KeyError, TypeError) as error:
        raise RefusedData(f"{path} needs images, categories and annotations as MS-CXR has them: {error}") from error
    for number, entry in enumerate(annotations, 1):
        where = f"{path.name}, annotation {number}"
        try:
            image = images[entry["image_id"]]
            dicom = image["path"].rpartition("/")[2].partition(".")[0]
            category, text = categories[entry["category_id"]], str(entry["label_text"])
            size, split = (image["width"], image["height"]), str(entry.get("split") or "")
        except (KeyError, TypeError, AttributeError) as error:
            problems.add("missing_key", where, f"{error} is missing; box not used")
        else:
            yield _Row(where, dicom, category, text, image["path"], entry.get("bbox"), *size, split)
