"""ReXrank: the studies that the public leaderboard tests on, from IU X-ray, MIMIC-CXR or CheXpert Plus.

Files, from https://github.com/rajpurkarlab/ReXrank, `data/`: ReXRank_IUXray_test.json, ReXRank_IUXray_valid.json,
ReXRank_MIMICCXR_test.json, ReXRank_CheXpertPlus.json. Each is one object whose keys are studies, such as
CXR3030_IM-1405, 50051329 or patient64620_study1, with image_path (list), frontal_lateral (the view of each),
key_image_path (the frontal image for models that take one), section_findings, section_impression, context ("Age:77.0.
Gender:F.Indication: ... Comparison: ..."), split, and for MIMIC-CXR subject_id. Missing texts are NaN.

Images lie below --root, the image_root_dir of ReXrank or the folder above: `images` of IU X-ray as R2Gen names them
(CXR3030_IM-1405/0.png), `files` of MIMIC-CXR-JPG, or `PNG` of CheXpert Plus.

License: that of each source. Counts: 590 test and 296 valid studies of IU X-ray, 2,347 of MIMIC-CXR, 200 of CheXpert
Plus. Patients are named as by the sources' own loaders. A study whose record names no split goes to test.
"""

import argparse
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_prep.options import add_options
from data_prep.problems import Problems
from data_prep.readers import jsons, pictures, reports
from data_prep.readers.sections import Sections
from data_prep.registry import data_set
from data_prep.sample import Sample
from data_prep.selection import NAMES

_FOLDERS = ("", "images", "files", "PNG")
_INDICATION = re.compile(r"Indication:(.*?)(?:Comparison:|$)", re.DOTALL)
_OPENI = re.compile(r"CXR(\d+)_")
_CHEXPERT = re.compile(r"(patient\d+)_study\d+")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", type=Path, required=True, help="folder of the images: images, files or PNG")
    parser.add_argument("--annotations", type=Path, required=True, help="ReXRank_IUXray_test.json or another of them")
    parser.add_argument("--name", default="rexrank", help="name of the data set in the rows")
    add_options(parser, "reports", "images")


@data_set(
    "rexrank",
    summary="the studies of the ReXrank leaderboard, from its JSON files",
    example="python -m data_prep rexrank --root iu_xray/images --annotations ReXRank_IUXray_test.json --out data/rex",
    arguments=add_arguments,
    context=("indication", "lateral"),
)
def samples(options: argparse.Namespace, problems: Problems) -> Iterator[Sample]:
    """One report sample per study, of its key image, or per frontal image; what cannot be used goes to `problems`."""
    reports.folder(options.root, "--root", "the images")
    return reports.samples(_studies(options, problems), options.name, options, problems)


def _studies(options: argparse.Namespace, problems: Problems) -> Iterator[reports.Study]:
    for name, entry in tqdm(jsons.members(options.annotations, problems), unit="study", disable=None):
        patient = patient_of(name, entry)
        names, views = (entry.get(key) for key in ("image_path", "frontal_lateral")) if patient else (None, None)
        split = str(entry.get("split", "test")) if patient else ""
        if not (isinstance(names, list) and isinstance(views, list) and len(names) == len(views)):
            wrong = "needs a key or subject_id that names a patient, image_path and as many frontal_lateral"
            problems.add("missing_key", name, f"{wrong}; study not used")
            continue
        if split not in NAMES:
            problems.add("no_split", name, f"split {split!r} is not one of {', '.join(NAMES)}; study not used")
            continue
        sections = Sections(*(reports.known_text(entry.get(f"section_{part}")) for part in ("findings", "impression")))
        chosen = reports.reference(sections, options.section, name, problems)
        if chosen is None:
            continue
        lateral = [str(image) for image, view in zip(names, views, strict=True) if "lateral" in str(view).lower()]
        frontal = [str(image) for image in names if image not in lateral]
        if not frontal:
            problems.notes["studies without a frontal image"] += 1
        # The key image first: it is what the leaderboard shows to models that take one image.
        frontal.sort(key=lambda image: image != entry.get("key_image_path"))
        find = partial(find_image, options.root, where=name, problems=problems)
        films = reports.views(frontal, lateral, name, options, find)
        reason = _INDICATION.search(str(entry.get("context")))
        yield reports.Study(name, patient, NAMES[split], *chosen, *films, reports.known_text(reason and reason[1]))


def patient_of(name: str, entry: Any) -> str:
    """The patient by the name that the source's own loader gives; "" if there is none."""
    if not isinstance(entry, dict):
        return ""
    if re.fullmatch(r"1\d{7}", subject := str(entry.get("subject_id"))):
        return reports.mimic_patient(subject)
    if match := _OPENI.match(name):
        return reports.openi_patient(match[1])
    return match[1] if (match := _CHEXPERT.fullmatch(name)) else ""


def find_image(root: Path, image: str, where: str, problems: Problems) -> Path | None:
    """The file of an image as a record names it, below the folder of the images or the one above; None (a problem)."""
    relative = image.lstrip("/")  # MIMIC's begin with a slash
    folders = (name for name in _FOLDERS if (root / name / relative).is_file())
    return pictures.within(root / next(folders, ""), relative, where, problems)
