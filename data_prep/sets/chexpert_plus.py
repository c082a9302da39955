"""CheXpert Plus: reports of chest films from Stanford, one row per study or per image.

Files: `df_chexpert_plus_240401.csv` with, of 27 columns, path_to_image
(`train/patient42142/study5/view1_frontal.jpg`), path_to_dcm, frontal_lateral (Frontal, Lateral), ap_pa (AP, PA or
nothing), section_findings, section_impression, split (train, valid) and for context section_clinical_history,
section_history and patient_report_date_order; and the images, which are not what path_to_image says: PNG as
`PNG/train/.../view1_frontal.png` or DICOM as `DICOM/train/.../view1_frontal.dcm`. Each image is looked for in PNG/, in
the folder itself, then in DICOM/.

License: Stanford University Dataset Research Use Agreement, after registration at
https://stanfordaimi.azurewebsites.net/datasets/5158c524-d3ab-4e02-96e9-6ee9efc110a1; research only, no handing on.

Counts: 223,462 rows of 187,711 studies of 64,725 patients. Most studies have an impression and no findings. The split
is train or, for 200 studies, valid, our val; none is in test. Capitals and numbers of the text stay. What follows the
impression (section_end_of_impression) is boilerplate and not used. Some 150 paths lead nowhere; they are listed.

Per study, its first PA film is taken, else its first AP film, else the first of unknown direction.
"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from data_prep.options import add_options
from data_prep.problems import Problems
from data_prep.readers import reports, tables
from data_prep.readers.sections import Sections, line, whole
from data_prep.registry import data_set
from data_prep.sample import Sample
from data_prep.selection import NAMES

_TABLE = "df_chexpert_plus_240401.csv"
_FILM = ("path_to_image", "frontal_lateral", "ap_pa", "split")
_TEXT = ("path_to_image", "path_to_dcm", "section_findings", "section_impression")
_INDICATION = ("section_clinical_history", "section_history")
_ORDER = "patient_report_date_order"
_PATH = re.compile(r"(?:train|valid)/(patient\d+)/(study\d+)/view(\d+)_\w+\.\w+")
_Key = tuple[str, str]  # patient and study


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", type=Path, required=True, help=f"folder with {_TABLE} and PNG/ or DICOM/")
    add_options(parser, "reports", "images")
    parser.set_defaults(section="impression")


class _Film(NamedTuple):
    path: str
    study: _Key
    rank: tuple[int, int, str]  # lowest for the film that stands for its study


@data_set(
    "chexpert_plus",
    summary="reports of CheXpert Plus",
    example="python -m data_prep chexpert_plus --root chexpert-plus --section impression --out data/chexpert",
    arguments=add_arguments,
    expected={"images": 223_462},
    context=("indication", "prior", "lateral"),
)
def samples(options: argparse.Namespace, problems: Problems) -> Iterator[Sample]:
    """One report sample per study or image; what cannot be used goes to `problems`."""
    table = tables.find(reports.folder(options.root, "--root", _TABLE), _TABLE, "--root")
    films, laterals = _films(table, problems)
    if options.per == "study":
        films = {film.path: film for film in _best(films).values()}
    sides = _best(laterals) if "lateral" in options.context else {}
    return reports.samples(_studies(table, films, sides, options, problems), "chexpert_plus", options, problems)


def _best(films: dict[str, _Film]) -> dict[_Key, _Film]:
    """The film of lowest rank of each study."""
    return {film.study: film for film in sorted(films.values(), key=lambda film: film.rank, reverse=True)}


def _films(table: Path, problems: Problems) -> tuple[dict[str, _Film], dict[str, _Film]]:
    """Usable frontal and lateral film by path_to_image; reports are too large to keep and come in a second pass."""
    films: dict[str, _Film] = {}
    laterals: dict[str, _Film] = {}
    for path, side, direction, split in tables.rows(table, _FILM, problems):
        problems.count("images")
        match, where = _PATH.fullmatch(path), f"{table.name}: {path}"
        if match is None:
            problems.add("unsafe_path", where, "path_to_image is not split/patient../study../view.._..; not used")
        elif path in films or path in laterals:
            problems.add("duplicate_id", where, "has a row already; this one is not used")
        elif split not in NAMES:
            problems.add("no_split", where, f"split {split!r} is neither train nor valid; not used")
        else:
            rank = {"PA": 0, "AP": 1}.get(direction, 2), int(match[3]), path
            (films if side == "Frontal" else laterals)[path] = _Film(path, (match[1], match[2]), rank)
    if laterals:
        problems.notes["films from the side, left out"] += len(laterals)
    return films, laterals


def _studies(
    table: Path, films: dict[str, _Film], sides: dict[_Key, _Film], options: argparse.Namespace, problems: Problems
) -> Iterator[reports.Study]:
    """A study for each of the films."""
    priors = _priors(table, problems) if "prior" in options.context else {}
    columns = *_TEXT, "split", *(_INDICATION if "indication" in options.context else ())
    rows = tables.rows(table, columns, problems)
    for path, dicom, findings, impression, split, *histories in tqdm(rows, unit="row", disable=None):
        film = films.pop(path, None)
        if film is None:
            continue
        chosen = reports.reference(Sections(line(findings), line(impression)), options.section, path, problems)
        image = _image(options.root, path, dicom, problems) if chosen else None
        if chosen is None or image is None:
            continue
        side, name = sides.get(film.study), "_".join(film.study)
        lateral = _image(options.root, side.path, "", problems) if side else None
        indication, prior = next(filter(None, map(line, histories)), ""), priors.get(film.study, "")
        named = [(f"{name}_{image.stem}", image)]
        yield reports.Study(name, film.study[0], NAMES[split], *chosen, named, lateral, indication, prior)


def _priors(table: Path, problems: Problems) -> dict[_Key, str]:
    """Study -> the report of the patient's study before it, by patient_report_date_order; holds all reports."""
    orders: dict[str, dict[str, tuple[int, str]]] = {}
    for path, _, findings, impression, number in tables.rows(table, (*_TEXT, _ORDER), problems):
        match, order = _PATH.fullmatch(path), number.removesuffix(".0")
        if match and order.isdecimal():
            text = whole(Sections(line(findings), line(impression)))
            orders.setdefault(match[1], {})[match[2]] = int(order), text
    return {
        (patient, study): max((old for old in studies.values() if old[0] < order and old[1]), default=(0, ""))[1]
        for patient, studies in orders.items()
        for study, (order, _) in studies.items()
    }


def _image(root: Path, path: str, dicom: str, problems: Problems) -> Path | None:
    png = Path(path).with_suffix(".png")
    dicom = dicom if _PATH.fullmatch(dicom) else str(Path(path).with_suffix(".dcm"))
    places = [root / "PNG" / png, root / png, root / path, root / "DICOM" / dicom, root / dicom]
    image = next((place for place in places if place.is_file()), None)
    if image is None:
        problems.add("missing_image", path, f"neither {places[0]} nor any other form of it is there; not used")
    return image
