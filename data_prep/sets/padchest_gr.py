"""PadChest-GR: sentences of reports with the boxes they speak of (phrase grounding), English or Spanish.

Files, from https://bimcv.cipf.es/bimcv-projects/padchest-gr/ (release of 2024-08-19):

- `grounded_reports_20240819.json`: a list of {StudyID, ImageID, PreviousStudyID, PreviousImageID, findings:
  [{sentence_en, sentence_es, abnormal, boxes, extra_boxes, labels, locations, progression}]}. A box is [x1, y1, x2, y2]
  as shares of the film; negative sentences often lack boxes; extra_boxes are a second reader's and not used;
- `master_table.csv`: among others StudyID, PatientID and split (train, validation or test), in several rows per study;
- the films, 16-bit PNG, from `Padchest_GR_files/PadChest_GR.zip.001` and so on, to be joined and unpacked;
- optionally `PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv` of PadChest itself, whose Projection tells frontal
  films from others; then only PA and AP are kept, as in arXiv 2512.10691.

A sentence such as "No pleural effusion" says that a reader looked for it: --negatives asks for labels of the set that a
negative sentence of the study names and no other sentence has. Labels are English, so not with --language es.

License: the agreement of BIMCV for PadChest-GR. Counts: 4,555 studies with 7,037 positive and 3,422 negative sentences;
8,787 rows in the master table. The patient id is the master table's PatientID.
"""

import argparse
import re
from collections import namedtuple
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_prep.options import add_options
from data_prep.problems import Problems
from data_prep.readers import box_sets, pictures, reports, tables
from data_prep.readers.jsons import objects
from data_prep.registry import data_set
from data_prep.sample import SPLITS, Sample
from reward_fns.errors import UsageError

_REPORTS, _TABLE = "grounded_reports_20240819.json", "master_table.csv"
_SPLITS = {"train": "train", "validation": "val", "valid": "val", "test": "test"}
_DENIAL = r"\b(?:no|not|without)\b[^.]*"
_NAME = re.compile(r"[\w-][\w.-]*\.png")
_Patients = dict[str, tuple[str, str]]
_OVERSHOOT = 0.005  # share of the film past its border that counts as rounding and is clipped


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", type=Path, required=True, help=f"folder with {_REPORTS} and {_TABLE}")
    parser.add_argument("--films", type=Path, help="folder of PNG films (default: PadChest_GR in --root, or --root)")
    parser.add_argument("--language", choices=("en", "es"), default="en", help="language of the sentences")
    parser.add_argument("--parent", type=Path, help="PadChest's table of images, to keep frontal films (PA, AP) only")
    box_sets.add_negatives(parser, "of labels that a negative sentence of its report names")
    add_options(parser, "images")


# `row` is patient, split and data set; labels are those of the positive sentences.
_Study = namedtuple("_Study", "id row image questions labels negatives")


@data_set(
    "padchest_gr",
    summary="sentences of reports with their boxes, in English or Spanish, on 16-bit films",
    example="python -m data_prep padchest_gr --root padchest-gr --out data/padchest_gr --workers 8",
    arguments=add_arguments,
    expected={"studies": 4555, "positive sentences": 7037, "negative sentences": 3422},
)
def samples(options: argparse.Namespace, problems: Problems) -> Iterator[Sample]:
    """Yield one grounding sample per sentence with boxes; unusable annotations go to `problems`."""
    root = reports.folder(options.root, "--root", _REPORTS)
    if options.negatives and options.language != "en":
        raise UsageError("--negatives asks for labels, which are in English; leave out --language es")
    patients = _patients(tables.find(root, _TABLE, "--root"), problems)
    parent: Any = options.parent and tables.rows(options.parent, ("ImageID", "Projection"), problems)
    projections = dict(parent) if parent else None
    studies = list(_studies(root / _REPORTS, options.language, patients, projections, problems))
    if options.negatives:
        boxed = {box.label for study in studies for question in study.questions for box in question.boxes if box}
        labels = {label for joined in boxed for label in joined.split(", ") if label}
        for study in studies:
            denied = {name for name in labels if re.search(rf"{_DENIAL}\b{re.escape(name)}\b", study.negatives, re.I)}
            study.questions.extend(box_sets.absent_questions(study.id, denied, study.labels, options).values())
    folders = [options.films] if options.films else [root / "PadChest_GR", root / "Padchest_GR_files/PadChest_GR", root]
    asked = tqdm([study for study in studies if study.questions], unit="study", disable=None)
    located = ((study, box_sets.find_film(folders, [study.image], problems)) for study in asked)
    for study, picture in pictures.read(located, options, problems):
        yield from box_sets.grounding_samples(study.id, study.questions, picture, study.row, problems)


def _patients(path: Path, problems: Problems) -> _Patients:
    """Study -> patient and split; of a patient in several splits, only the studies in the last of them."""
    studies: _Patients = {}
    last: dict[str, str] = {}
    for number, (study, patient, named) in enumerate(tables.rows(path, ("StudyID", "PatientID", "split"), problems), 2):
        where = f"{path.name}, row {number} (study {study})"
        split = _SPLITS.get(named.strip())
        if split is None or not patient:
            problems.add("bad_split", where, f"split {named!r} of patient {patient!r} is not known; row not used")
        elif studies.setdefault(study, (patient, split)) != (patient, split):
            detail = f"patient {patient} in {split}, but {' in '.join(studies[study])} in another row of this study"
            problems.add("split_conflict", where, f"{detail}; row not used")
        else:
            last[patient] = max(last.get(patient, split), split, key=SPLITS.index)
    for study, (patient, split) in studies.items():
        if split != last[patient]:
            detail = f"patient {patient} is in {last[patient]} with another study; this one, of {split}, is not used"
            problems.add("leaked_patient", f"study {study}", detail)
    return {study: (patient, split) for study, (patient, split) in studies.items() if split == last[patient]}


def _studies(
    path: Path, language: str, patients: _Patients, projections: Mapping[str, str] | None, problems: Problems
) -> Iterator[_Study]:
    """Studies on a frontal film."""
    seen = set()
    for place, item in objects(path, problems):
        problems.count("studies")
        study, image, findings = str(item.get("StudyID")), item.get("ImageID"), item.get("findings")
        where = f"{path.name}, {place} (study {study})"
        if not isinstance(image, str) or not isinstance(findings, list):
            problems.add("missing_key", where, "needs an ImageID and a list of findings; study not used")
            continue
        questions, labels, negatives = _questions(findings, language, where, problems)
        if not _NAME.fullmatch(image):
            problems.add("unsafe_path", where, f"ImageID {image!r} is not the name of a PNG file; study not used")
        elif study in seen:
            problems.add("duplicate_id", where, "the study was listed before; not used")
        elif study not in patients:
            problems.add("no_split", where, f"{_TABLE} gives it no patient and split; study not used")
        elif projections is not None and image not in projections:
            problems.add("unknown_image", where, f"{image} is not in the table of --parent; study not used")
        elif projections is not None and projections[image] not in ("PA", "AP"):
            problems.notes[f"films of projection {projections[image] or 'unknown'}, not used"] += 1
        else:
            yield _Study(study, (*patients[study], "padchest_gr"), image, questions, labels, negatives)
        seen.add(study)


def _questions(
    findings: list[Any], language: str, where: str, problems: Problems
) -> tuple[list[box_sets.Question], set[str], str]:
    """A question for each sentence with boxes, the labels of all positive sentences, and the negative sentences."""
    questions, all_labels, negatives = [], set[str](), []
    for number, finding in enumerate(findings):
        here = f"{where}, finding {number}"
        if not isinstance(finding, dict):
            problems.add("missing_key", here, "is not an object; not used")
            continue
        kind = "positive" if finding.get("abnormal") else "negative"
        problems.count(f"{kind} sentences")
        given, quads = finding.get("labels"), finding.get("boxes") or []
        labels = list(map(str, given)) if isinstance(given, list) else []
        if kind == "negative" and not quads:
            negatives.append(str(finding.get("sentence_en")))
        else:
            all_labels.update(labels)
        if not quads:
            problems.notes[f"{kind} sentences without boxes, not used"] += 1
            continue
        sentence = finding.get(f"sentence_{language}")
        label, quads = ", ".join(labels), quads if isinstance(quads, list) else [quads]
        if not isinstance(sentence, str) or not sentence.strip():
            problems.add("blank", here, f"sentence_{language} is blank; not used")
        else:
            box = partial(box_sets.normalized_box, size=(1, 1), label=label, where=here, overshoot=_OVERSHOOT)
            boxes = [box(quad, problems=problems) for quad in quads]
            questions.append(box_sets.Question(str(number), " ".join(sentence.split()), boxes, kind="phrase"))
    return questions, all_labels, ". ".join(negatives)
