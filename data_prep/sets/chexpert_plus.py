"""CheXpert Plus: reports of chest films from Stanford, one row per study or per image.

Files: `df_chexpert_plus_240401.csv` with, of 27 columns, path_to_image
(`train/patient42142/study5/view1_frontal.jpg`), path_to_dcm, frontal_lateral (Frontal, Lateral), ap_pa (AP, PA or
nothing), section_findings, section_impression and split (train, valid); and the images, which are not what
path_to_image says: PNG as `PNG/train/.../view1_frontal.png` or DICOM as `DICOM/train/.../view1_frontal.dcm`. Each
image is looked for in PNG/, in the folder itself, then in DICOM/.

Licence: Stanford University Dataset Research Use Agreement, after registration at
https://stanfordaimi.azurewebsites.net/datasets/5158c524-d3ab-4e02-96e9-6ee9efc110a1; research only, no handing on.

Counts: 223,462 rows of 187,711 studies of 64,725 patients. Most studies have an impression and no findings. There are
training films and, for "valid", our val, those of 200 studies; there is no test split. Much of the text is in
capitals and numbered, and so it stays. What follows the impression (section_end_of_impression) is boilerplate and not
used. Paths of some 150 images lead nowhere; they are listed.

Per study, its first PA film is taken, else its first AP film, else the first of unknown direction.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from data_prep.problems import Problems
from data_prep.readers import images, pictures, tables
from data_prep.readers.sections import SECTIONS, Sections, choose, line
from data_prep.registry import data_set
from data_prep.sample import Sample
from data_prep.splits import NAMES
from reward_fns.errors import UsageError

_TABLE = "df_chexpert_plus_240401.csv"
_FILM = ("path_to_image", "path_to_dcm", "frontal_lateral", "ap_pa", "split")
_TEXT = ("section_findings", "section_impression")
_PATH = re.compile(r"(?:train|valid)/(patient\d+)/(study\d+)/view(\d+)_\w+\.\w+")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of CheXpert Plus."""
    parser.add_argument("--root", type=Path, required=True, help=f"folder with {_TABLE} and PNG/ or DICOM/")
    parser.add_argument("--section", choices=SECTIONS, default="impression", help="the part of a report to ask for")
    parser.add_argument("--per", choices=("study", "image"), default="study", help="one row per study or per image")
    images.add_arguments(parser)


class _Film(NamedTuple):
    """A frontal film; `rank` is lowest for the one that stands for its study."""

    path: str
    patient: str
    study: str
    rank: tuple[int, int, str]


@data_set(
    "chexpert_plus",
    summary="reports of CheXpert Plus",
    example="python -m data_prep chexpert_plus --root chexpert-plus --section impression --out data/chexpert",
    arguments=add_arguments,
    expected={"images": 223_462},
)
def samples(options: argparse.Namespace, problems: Problems) -> Iterator[Sample]:
    """One report sample per study or image; whatever cannot be used goes to `problems`.

    Raises:
        UsageError: if the folder, the table or a column is missing.
        RefusedData: if the table is damaged.
    """
    if not options.root.is_dir():
        raise UsageError(f"--root {options.root} is not a folder; give the one with {_TABLE}")
    table = tables.find(options.root, _TABLE, "--root")
    films = _films(table, problems)
    if options.per == "study":
        best: dict[tuple[str, str], _Film] = {}
        for film in films.values():
            study = film.patient, film.study
            best[study] = min(film, best.get(study, film), key=lambda one: one.rank)
        films = {film.path: film for film in best.values()}
    records = _records(table, films, options, problems)
    for fields, (image, width, height) in pictures.read(records, options, problems):
        yield Sample(image=image, width=width, height=height, **fields)


def _films(table: Path, problems: Problems) -> dict[str, _Film]:
    """Every usable frontal film by path_to_image; the reports are too large to keep and come in a second pass."""
    found: dict[str, _Film] = {}
    for path, _, side, direction, split in tables.rows(table, _FILM, problems):
        problems.count("images")
        match = _PATH.fullmatch(path)
        if match is None:
            told = "path_to_image is not split/patient../study../view.._..; not used"
            problems.add("unsafe_path", f"{table.name}: {path}", told)
        elif path in found:
            problems.add("duplicate_id", f"{table.name}: {path}", "has a row already; this one is not used")
        elif split not in NAMES:
            problems.add("no_split", f"{table.name}: {path}", f"split {split!r} is neither train nor valid; not used")
        elif side != "Frontal":
            problems.notes["films from the side, left out"] += 1
        else:
            rank = {"PA": 0, "AP": 1}.get(direction, 2), int(match[3]), path
            found[path] = _Film(path, match[1], match[2], rank)
    return found


def _records(
    table: Path, films: dict[str, _Film], options: argparse.Namespace, problems: Problems
) -> Iterator[tuple[dict[str, Any], Path]]:
    """The samples but for their image, and where that lies."""
    rows = tables.rows(table, (*_FILM, *_TEXT), problems)
    for path, dicom, _, _, split, findings, impression in tqdm(rows, unit="row", disable=None):
        film = films.pop(path, None)
        if film is None:
            continue
        chosen = choose(Sections(line(findings), line(impression)), options.section)
        if chosen is None:
            problems.notes[f"reports without the section asked for ({options.section})"] += 1
            continue
        kind, report = chosen
        study = f"{film.patient}_{film.study}"
        place = _image(options.root, path, dicom, problems)
        if place is not None:
            fields = {
                "id": study if options.per == "study" else f"{study}_{place.stem}",
                "patient_id": film.patient,
                "split": NAMES[split],
                "dataset": "chexpert_plus",
                "task": "report",
                "report": report,
                "kind": kind,
            }
            yield fields, place


def _image(root: Path, path: str, dicom: str, problems: Problems) -> Path | None:
    png = Path(path).with_suffix(".png")
    places = [root / "PNG" / png, root / png, root / path]
    if _PATH.fullmatch(dicom):
        places += [root / "DICOM" / dicom, root / dicom]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        problems.add("missing_image", path, f"neither {places[0]} nor any other form of it is there; not used")
    return found
