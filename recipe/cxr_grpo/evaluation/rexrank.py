"""ReXrank, the public leaderboard of chest X-ray reports: its studies in, answers and a submission out.

Its files (github.com/rajpurkarlab/ReXrank, `data/`) hold one object: study -> record. A result is that object with a
text `model_prediction` in each record. `data_prep.sets.rexrank` describes the records; that loader leaves out studies
without a usable reference, of which the leaderboard wants an answer, too.
"""

import argparse
import importlib.metadata
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.problems import Problems
from data_prep.readers import jsons, pictures, reports
from data_prep.sample import Sample
from data_prep.sets import rexrank
from data_prep.writer.dataset import DatasetWriter
from recipe.cxr_grpo.evaluation.generation import MAX_THINKING, MAX_TOKENS, read_rows
from recipe.cxr_grpo.results.validation import OWN
from reward_fns.answers import extract_answer
from reward_fns.errors import UsageError

QUESTIONS = {
    "findings": "Report the findings on this chest film.",
    "report": "Write a full report of this chest X-ray, findings and impression.",
}
"""Kind of question -> its wording: one for all studies, which is that of the submission, too."""


def import_studies(options: argparse.Namespace, writer: DatasetWriter, problems: Problems) -> None:
    """Add a question about each study's key image; what can't be used, and what is unusual, goes to `problems`.

    The reference of kind "report" is as the leaderboard scores it, "Findings: ... Impression: ...", with None for a
    missing section. `options` are --file, --img-root, --kind, and the group `images` of help.yaml.
    """
    for (study, patient, entry), film in pictures.read(_records(options, problems), options, problems):
        sections = {name: reports.known_text(entry.get(f"section_{name}")) for name in ("findings", "impression")}
        for name in [name for name, text in sections.items() if not text and options.kind in ("report", name)]:
            problems.notes[f"studies without {name}, whose reference says None"] += 1
        text = " ".join(f"{name.capitalize()}: {text or None}" for name, text in sections.items())
        reference = text if options.kind == "report" else sections["findings"] or "None"
        asked = {"report": reference, "kind": options.kind, "question": QUESTIONS[options.kind]}
        writer.add(Sample(study, patient, "test", "rexrank", "report", *film, **asked))


def _records(options: argparse.Namespace, problems: Problems) -> Iterator[tuple[Any, Path | None]]:
    for study, entry in jsons.members(options.file, problems):
        patient, images = rexrank.patient_of(study, entry), isinstance(entry, dict) and entry.get("image_path")
        if not (patient and images and isinstance(images, list) and all(isinstance(name, str) for name in images)):
            problems.add("missing_key", study, "needs a key or subject_id that names a patient, and image_path")
            continue
        views = dict(zip(images, entry.get("frontal_lateral") or (), strict=False))
        # The key image is what the leaderboard shows to models that take one; without it, one that is not lateral.
        key = min(
            images, key=lambda name: (name != entry.get("key_image_path"), "lateral" in str(views.get(name)).lower())
        )
        if not reports.known_text(views.get(key)):
            problems.notes["studies whose film has a blank view"] += 1
        yield (study, patient, entry), rexrank.find_image(options.img_root, key, study, problems)


def export(predictions: Path, studies: Path, out: Path, *, thinking: bool) -> int:
    """Write the studies with their answers; returns how many. UsageError if one has none, or its generation failed.

    The answer is what follows </think> if `thinking`, and "" without that.
    """
    entries = jsons.read(studies, Problems())
    rows = {
        row["id"]: row
        for row in read_rows(predictions.read_bytes() + b"\n")
        if row["films"] == OWN and "error" not in row
    }
    if missing := [study for study in entries if study not in rows]:
        raise UsageError(
            f"{predictions}: {len(missing)} of {len(entries)} studies have no answer, such as {missing[0]}"
        )
    for study, entry in entries.items():
        entry["model_prediction"] = extract_answer(rows[study]["prediction"], thinking=thinking) or ""
    out.write_text(json.dumps(entries, indent=4), encoding="utf-8")
    return len(entries)


def package(options: argparse.Namespace) -> None:
    """Write a folder to submit: inference.py, which needs transformers only, its settings, environment and description.

    A local model is copied into it. `options` are those of the command: a model is asked as for `import_studies`.
    """
    out, (model, weights), question = options.out, options.model, QUESTIONS[options.kind]
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty; choose another --out")
    thinking = options.thinking if model.thinking is None else model.thinking
    asked = question + (options.suffix if options.thinking else "")
    settings = {
        "model": "model" if Path(weights).is_dir() else weights,
        "prompt": asked + model.question_end({"task": "report", "box_format": "radvlm"}, question),
        "thinking": thinking,
        "temperature": model.temperature,
        "max_new_tokens": model.max_tokens or (MAX_THINKING if thinking else MAX_TOKENS),
        "min_pixels": options.min_pixels,
        "max_pixels": options.max_pixels,
    }
    # Without what follows "+", such as cpu: no registry has those builds of torch.
    needs = ("torch", "torchvision", "transformers", "pillow")
    facts = {name: importlib.metadata.version(name).partition("+")[0] for name in needs}
    out.mkdir(parents=True, exist_ok=True)
    if Path(weights).is_dir():
        shutil.copytree(weights, out / "model")
    (out / "settings.json").write_text(json.dumps(settings, indent=1) + "\n")
    for name in ("inference.py", "environment.yaml", "README.md"):
        text = (Path(__file__).with_name("submission") / name).read_text()
        filled = text if name.endswith(".py") else text.format_map({**settings, **facts, "title": model.title})
        (out / name).write_text(filled)
    print(f"{out}: complete README.md, then submit the folder")
