"""NIH ChestX-ray14: the 984 boxes that a radiologist drew, for eight findings on 880 films (abnormality grounding).

Files, from https://nihcc.app.box.com/v/ChestXray-NIHCC:

- `BBox_List_2017.csv`, plain or gzipped. Its header `Image Index,Finding Label,Bbox [x,y,w,h],,,` has more columns than
  the rows, whose six fields are the film, the finding, and upper left corner, width and height of the box in pixels of
  the film, which is 1024 x 1024 as published;
- the films `images_001/images/<patient>_<number>.png` and so on, or all in one folder; resized copies will do if they
  are square, because the box stays the same share of the film;
- `test_list.txt`, the names of the films of the official test split;
- for --negatives, `Data_Entry_2017.csv` (Image Index, Finding Labels): a box was only looked for where its finding is
  among these labels, so a finding counts as absent if neither a box nor a label of the film names it.

License: free use, with attribution to the NIH Clinical Center and the paper (Wang et al., CVPR 2017).
Counts: 984 boxes on 880 films. The patient id is the first part of a film's name, e.g. "00013118".
"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from data_prep.options import add_options
from data_prep.problems import Problems
from data_prep.readers import box_sets, pictures, reports, tables
from data_prep.registry import data_set
from data_prep.sample import SPLITS, Sample
from reward_fns.errors import UsageError

_LIST, _LABELS = "BBox_List_2017.csv", "Data_Entry_2017.csv"
_SIDE = 1024
_NAME = re.compile(r"\d{8}_\d{3}\.png")
_SQUARE = 0.01  # copies are square but for the rounding of a side


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", type=Path, required=True, help="folder of the films, or of images_001/ and so on")
    parser.add_argument("--boxes", type=Path, help=f"the list of boxes (default: {_LIST} in --root)")
    split = parser.add_mutually_exclusive_group()
    split.add_argument("--split", choices=SPLITS, default="test", help="the split that all films go to")
    split.add_argument("--test-list", type=Path, help="or the official test_list.txt; other films are for training")
    box_sets.add_negatives(parser, f"of those that neither a box nor a label of the film in {_LABELS} names")
    parser.add_argument("--labels", type=Path, help=f"the labels for --negatives (default: {_LABELS} in --root)")
    add_options(parser, "images")


@data_set(
    "nih_cxr14",
    summary="the 984 boxes of ChestX-ray14, for eight findings",
    example="python -m data_prep nih_cxr14 --root CXR8 --boxes BBox_List_2017.csv --out data/nih",
    arguments=add_arguments,
    expected={"boxes": 984, "films": 880},
)
def samples(options: argparse.Namespace, problems: Problems) -> Iterator[Sample]:
    """Yield one grounding sample per film and finding; unusable annotations go to `problems`."""
    root = reports.folder(options.root, "--root", "the films")
    test = {row[0].strip() for row in tables.raw(options.test_list, problems) if row} if options.test_list else None
    if test is not None and not any(map(_NAME.fullmatch, test)):
        one_a_line = "it should have one a line, such as 00013118_008.png"
        raise UsageError(f"--test-list {options.test_list} names no film; {one_a_line}")
    films = _read_boxes(options.boxes or tables.find(root, _LIST, "--boxes"), problems)
    boxed = {finding for questions in films.values() for finding in questions}
    if options.negatives:
        table = options.labels or tables.find(root, _LABELS, "--labels")
        for name, labels in tables.rows(table, ("Image Index", "Finding Labels"), problems):
            if questions := films.get(name):
                read = map(box_sets.readable, labels.split("|"))
                present = {label.replace("infiltration", "infiltrate") for label in read}  # as the list of boxes has it
                questions |= box_sets.absent_questions(name, boxed, present | questions.keys(), options)
    folders = [root, root / "images", *sorted(root.glob("images_*")), *sorted(root.glob("images_*/images"))]
    names = tqdm(films, unit="film", disable=None)
    located = ((name, box_sets.find_film(folders, [name], problems)) for name in names)
    for name, picture in pictures.read(located, options, problems):
        _, width, height = picture
        if abs(width / height - 1) > _SQUARE:
            detail = f"is {width} x {height}, but the films are square: where the boxes lie is unknown; not used"
            problems.add("size_mismatch", name, detail)
            continue
        split = options.split if test is None else "test" if name in test else "train"
        row = (name.partition("_")[0], split, "nih_cxr14")
        yield from box_sets.grounding_samples(Path(name).stem, films[name].values(), picture, row, problems)


def _read_boxes(path: Path, problems: Problems) -> dict[str, dict[str, box_sets.Question]]:
    """Film -> finding -> question, in the order of the list."""
    films: dict[str, dict[str, box_sets.Question]] = {}
    named = set()
    rows = tables.raw(path, problems)
    header = ",".join(next(rows, [])).replace(" ", "")
    if not header.startswith("ImageIndex,FindingLabel,Bbox[x,y,w,h]"):
        raise UsageError(f"{path} has the header {header[:80]!r}, not Image Index,Finding Label,Bbox …")
    for number, row in enumerate(rows, 2):
        where = f"{path.name}, row {number}"
        if not any(row):
            continue
        problems.count("boxes")
        # Some copies have the header's empty columns in their rows too.
        name, finding, *bbox = (value.strip() for value in row + [""] * 2)
        named.add(name)
        if not _NAME.fullmatch(name):
            problems.add("unsafe_path", where, f"film {name!r} is not named like 00013118_008.png; box not used")
        elif not (finding := box_sets.readable(finding)):
            problems.add("blank", where, "the finding is blank; box not used")
        else:
            box = box_sets.normalized_box(bbox[:4], (_SIDE, _SIDE), finding, f"{where} ({name})", problems, form="xywh")
            questions = films.setdefault(name, {})
            questions.setdefault(finding, box_sets.Question(finding, finding)).boxes.append(box)
    problems.count("films", len(named))
    return films
