"""Your own data in the JSON format of LLaVA: questions and answers about one image each.

File: a JSON list, or JSON lines, of {"id", "image", "conversations": [{"from": "human", "value": "<image>\\n..."},
{"from": "gpt", "value": "..."}]}; `image` is a path below --root. `--task` says what the answers are:

--task conversation  any answers, several turns too: rows for SFT, because no reward can score them
--task report        the answer is the reference report; one turn
--task grounding     the answer gives boxes, written in the convention --source-format; one turn

Questions are asked as they are written; `--format-hint` adds the answer format. The format does not name the
patient: --patient-regex finds it in the image's path, else each image counts as a patient of its own, named as in the
set `coco` by its file name without suffix.
"""

import argparse
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from tqdm import tqdm

from data_prep.options import add_options, with_group
from data_prep.problems import Problems
from data_prep.readers import pictures, reports
from data_prep.readers.jsons import Dialog, dialogs, task_content
from data_prep.registry import data_set
from data_prep.sample import KINDS, TASKS, Sample
from reward_fns.conventions import CONVENTIONS, get_convention
from reward_fns.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", type=Path, required=True, help="folder of the images")
    parser.add_argument("--annotations", type=Path, required=True, help="JSON file in LLaVA's format")
    parser.add_argument("--name", default="llava", help="name of the data set in the rows")
    parser.add_argument("--task", choices=TASKS, default="conversation", help="what the answers are")
    parser.add_argument(
        "--kind",
        choices=[kind for kinds in KINDS.values() for kind in kinds],
        help="what is asked for, e.g. impression",
    )
    parser.add_argument(
        "--source-format", choices=sorted(CONVENTIONS), default="radvlm", help="box convention of the answers"
    )
    parser.add_argument("--patient-regex", type=with_group, help="first group in the path is the patient")
    add_options(parser, "splits", "images")


@data_set(
    "llava",
    summary="your own questions and answers, in LLaVA's JSON format",
    example="python -m data_prep llava --root films --annotations train.json --task report --out data/mine",
    arguments=add_arguments,
)
def samples(options: argparse.Namespace, problems: Problems) -> Iterator[Sample]:
    """One sample per item; what cannot be used goes to `problems`."""
    reports.folder(options.root, "--root", "the images")
    kind = options.kind or KINDS[options.task][0]
    if kind not in KINDS[options.task]:
        raise UsageError(f"--kind {kind} is not of --task {options.task}, which has {', '.join(KINDS[options.task])}")
    items = tqdm(dialogs(options.annotations, problems), unit="item", disable=None)
    for (dialog, patient), film in pictures.read(_placed(items, options, problems), options, problems):
        frame = get_convention(options.source_format).frame(*film[1:])
        content = task_content(options.task, dialog, options.source_format, frame, problems)
        if content is not None:
            ids = dialog.id, patient, reports.split(options, patient), options.name, options.task
            yield Sample(*ids, *film, kind=kind, **content)


def _placed(
    items: Iterable[Dialog], options: argparse.Namespace, problems: Problems
) -> Iterator[tuple[tuple[Dialog, str], Path]]:
    for dialog in items:
        path = pictures.within(options.root, dialog.image, f"id {dialog.id}", problems)
        patient: re.Match[str] | None = options.patient_regex and options.patient_regex.search(dialog.image)
        if path and options.patient_regex and not (patient and patient[1]):
            problems.add("no_patient", dialog.image, "--patient-regex finds no patient; not used")
        elif path:
            yield (dialog, patient[1] if patient else reports.film_patient(dialog.image)), path
