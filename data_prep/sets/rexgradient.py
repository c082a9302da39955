"""ReXGradient-160K: reports of chest films from 79 sites, one row per study or per image.

Files, from https://huggingface.co/datasets/rajpurkarlab/ReXGradient-160K (access on request):
`metadata/{train,valid,test}_metadata_view_position.json`, one object whose keys are studies, each with lists
ImagePath (`../deid_png/<patient>/<accession>/studies/<study>/series/<series>/instances/<image>.png`) and
ImageViewPosition, and with Findings, Impression, Indication and PatientID; and `deid_png.part*`, which joined together
are a tar archive with `deid_png/`. Missing texts are null, NaN or the words "None" or "nan".

License: ReXGradient-160K's own, non-commercial.

Counts: 160,000 studies with 273,004 images: 140,000, 10,000 and 10,000 studies for training, validation and test.

Per study, its first film whose view is PA is taken, else the first that is AP, in the file's order.
"""

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tqdm import tqdm

from data_prep.options import add_options
from data_prep.problems import Problems
from data_prep.readers import jsons, pictures, reports
from data_prep.readers.sections import Sections
from data_prep.registry import data_set
from data_prep.sample import Sample
from data_prep.selection import NAMES
from reward_fns.errors import UsageError

_VIEWS = {"PA": 0, "POSTERO_ANTERIOR": 0, "AP": 1, "ANTERO_POSTERIOR": 1}
_LATERAL = {"LATERAL", "LL", "RL", "LEFT_LATERAL", "RIGHT_LATERAL"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", type=Path, required=True, help="folder with metadata/ and deid_png/")
    add_options(parser, "reports", "images")


@data_set(
    "rexgradient",
    summary="reports of ReXGradient-160K",
    example="python -m data_prep rexgradient --root ReXGradient-160K --workers 8 --out data/rexgradient",
    arguments=add_arguments,
    expected={"studies": 160_000, "images": 273_004},
    context=("indication", "lateral"),
)
def samples(options: argparse.Namespace, problems: Problems) -> Iterator[Sample]:
    """One report sample per study or image; what cannot be used goes to `problems`."""
    files = {name: options.root / f"metadata/{name}_metadata_view_position.json" for name in ("train", "valid", "test")}
    present = {name: path for name, path in files.items() if path.is_file()}
    if not present:
        raise UsageError(f"--root {options.root} has none of {', '.join(map(str, files.values()))}")
    problems.notes.update(f"no metadata of the {name} split" for name in files.keys() - present.keys())
    return reports.samples(_studies(present, options, problems), "rexgradient", options, problems)


def _studies(files: dict[str, Path], options: argparse.Namespace, problems: Problems) -> Iterator[reports.Study]:
    for split, path in files.items():
        for study, entry in tqdm(jsons.members(path, problems), desc=split, unit="study", disable=None):
            where = f"{path.name}: {study}"
            problems.count("studies")
            values = entry if isinstance(entry, dict) else {}
            paths, views, patient = (values.get(key) for key in ("ImagePath", "ImageViewPosition", "PatientID"))
            named = str(patient).lower() not in ("", "none", "nan")
            problems.count("images", len(paths) if isinstance(paths, list) else 0)
            if not (named and isinstance(paths, list) and isinstance(views, list) and len(paths) == len(views)):
                wrong = "needs PatientID, ImagePath and ImageViewPosition, two lists of one length; study not used"
                problems.add("missing_key", where, wrong)
                continue
            texts = [reports.known_text(entry.get(key)) for key in ("Findings", "Impression", "Indication")]
            chosen = reports.reference(Sections(*texts[:2]), options.section, where, problems)
            if chosen is None:
                continue
            shown = [(str(view), str(name).removeprefix("../")) for view, name in zip(views, paths, strict=True)]
            frontal = sorted((film for film in shown if film[0] in _VIEWS), key=lambda film: _VIEWS[film[0]])
            if not frontal:
                problems.notes["studies without a film of view PA or AP"] += 1
            sides = [name for view, name in shown if view in _LATERAL]
            find = partial(pictures.within, options.root, where=where, problems=problems)
            films = reports.views([name for _, name in frontal], sides, study, options, find)
            yield reports.Study(study, str(patient), NAMES[split], *chosen, *films, texts[2])
