"""Scores of a model's predictions: per sample, and over all of them."""

import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import yaml
from tqdm import tqdm

from recipe.cxr_grpo.evaluation.grounding_metrics import ap50_paper, mask_overlap, paper_boxes
from recipe.cxr_grpo.evaluation.predictions import Pairs, Sample
from recipe.cxr_grpo.results.average_precision import coco
from reward_fns.answers import extract_answer
from reward_fns.boxes import iou_matrix
from reward_fns.conventions import get_convention
from reward_fns.errors import UsageError
from reward_fns.judge.record import recording
from reward_fns.models.chexbert import OBSERVATIONS, POSITIVE, UNCERTAIN, classify
from reward_fns.models.radgraph import annotate
from reward_fns.rewards.chexbert_f1 import INDICES
from reward_fns.rollout import ParsedRollout, Rollout, parse_rollout
from reward_fns.scoring import score_batch
from reward_fns.spec import of_rewards, resolve

METRICS: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("metrics.yaml").read_text(encoding="utf-8"))
_READING = of_rewards(["rouge_l", "box_iou"])  # any reward of each task: answers are read alike for all
_RULES = {"timeout": 900.0}  # seconds for a batch: a CPU reads long reports slowly
_CHUNK = 128
Scored = dict[str, Any]  # a row of scores.jsonl


def score(pairs: Pairs, chosen: Sequence[str]) -> list[Scored]:
    """A row of scores per sample, in order; ``chosen`` are the metrics of reports, by their names in metrics.yaml.

    A sample whose prediction is missing or can't be read has the floor of every metric. UsageError names a metric that
    can't be computed, such as for want of its weights.
    """
    task = pairs[0][0].task
    families = {name: METRICS[task][name] for name in (chosen if task == "report" else METRICS[task])}
    rows, rollouts = zip(*(_read(sample, (given or {}).get("prediction")) for sample, given in pairs), strict=True)
    for start in tqdm(range(0, len(rows), _CHUNK), desc=task, unit_scale=_CHUNK, disable=not sys.stderr.isatty()):
        part = rows[start : start + _CHUNK]
        for family, metrics in families.items():
            try:
                for name, how in metrics.items():
                    spec, sign = resolve({task: [how], "failures": _RULES}), -1 if name in METRICS["lower"] else 1
                    with recording() as said:
                        results = score_batch(rollouts[start : start + _CHUNK], spec)
                    for row, result in zip(part, results, strict=True):
                        if isinstance(result, Exception):
                            raise UsageError(str(result))
                        row["metrics"][name] = sign * (value := result[how["name"]])
                        if answer := said.get((row["answer"], row["reference"], value)):
                            row["explanation"] = f"{row.get('explanation', '')}\n\n{name}: {answer}".lstrip()
                if family == "chexbert":
                    _label(part)
                elif family == "radgraph":
                    _mark(part)
            except UsageError as error:
                others = ",".join(name for name in families if name != family)
                raise UsageError(f"metric {family}: {error}\nTo leave it out: --metrics {others}") from error
    return [*rows]


def _read(sample: Sample, text: str | None) -> tuple[Scored, Rollout]:
    """A sample's row without what rewards compute, and what they get; an answer begins after the last </think>."""
    thought, tag, _ = (text or "").rpartition("</think>")
    thinking = sample.thinking or bool(tag)
    answer, source = extract_answer(text or "", thinking=thinking) or "", f"{sample.data_set}/{sample.task}"
    rollout = Rollout(source, answer, sample.truth.stored, sample.info)
    parsed = parse_rollout(rollout, _READING)
    if not isinstance(parsed, ParsedRollout):
        raise UsageError(str(parsed))
    status = "missing" if text is None else "failed" if parsed.failed else "ok"
    row: Scored = {key: getattr(sample, key) for key in ("id", "patient_id", "task", "films", "question", "image")}
    row |= {"data_source": source, "prediction": text, "answer": answer, "status": status, "labels": [], "counts": {}}
    row["thinking"] = (thought if tag else text or "").removeprefix("<think>").strip() if thinking else ""
    row |= {"reference": sample.truth.report or None, "metrics": {"answer_chars": float(len(answer))}}
    if sample.task == "grounding":
        ours, theirs = ([box.quad for box in boxes] for boxes in (parsed.prediction, sample.truth.boxes))
        scale = get_convention(sample.info["box_format"]).scale((sample.info["width"], sample.info["height"]))
        first, true = (np.array(boxes).reshape(-1, 4) for boxes in (ours[:1], theirs))
        overlap = (0.0, 0.0) if parsed.failed else mask_overlap(ours, theirs)
        row["metrics"] = {"ap50_paper": ap50_paper(paper_boxes(answer, scale), true)}
        row["metrics"]["acc_50"] = float((iou_matrix(first, true) >= 0.5).any()) if len(theirs) == 1 else None
        row["metrics"] |= dict(zip(("mask_precision", "mask_recall"), overlap, strict=True))
        row |= {"labels": sorted({box.label for box in sample.truth.boxes}), "n_boxes": len(theirs)}
        row |= {"boxes": {"prediction": ours, "reference": theirs}}
        row["counts"] = {"invalid_boxes": len(parsed.context["invalid_boxes"])}
    return row, rollout


def _label(rows: Sequence[Scored]) -> None:
    """Add what CheXbert finds, positive and uncertain, as f1chexbert counts it; in a failed answer it finds nothing."""
    found = classify([row["answer"] for row in rows] + [row["reference"] for row in rows])
    marks = [[int(mark in (POSITIVE, UNCERTAIN)) for mark in findings.classes] for findings in found]
    for row, ours, theirs in zip(rows, marks, marks[len(rows) :], strict=False):
        ours = ours if row["status"] == "ok" else [0] * len(OBSERVATIONS)
        row["counts"]["chexbert"] = {"prediction": ours, "reference": theirs}
        row["labels"] = [name for name, marked in zip(OBSERVATIONS, theirs, strict=True) if marked]


def _mark(rows: Sequence[Scored]) -> None:
    """Add words and label of each entity that RadGraph has just found, for the viewer; a failed answer has none."""
    longest = METRICS["report"]["radgraph"]["radgraph_complete"]["options"]["max_chars"]
    answers = [row["answer"] if row["status"] == "ok" else "" for row in rows]
    found = annotate(answers + [row["reference"] for row in rows], max_chars=longest)
    marks = [[[entity.tokens, entity.label] for entity in graph] for graph in found]
    for row, ours, theirs in zip(rows, marks, marks[len(rows) :], strict=False):
        row["entities"] = {"prediction": ours if row["status"] == "ok" else [], "reference": theirs}


def corpus(rows: Sequence[Scored]) -> dict[str, float | None]:
    """The metrics of all samples: means over those that have a value, and what is computed from counts and boxes."""
    found: dict[str, float | None] = {}
    for name in rows[0]["metrics"]:
        values = [row["metrics"][name] for row in rows if row["metrics"][name] is not None]
        found[name] = fmean(values) if values else None
    if value := found.get("radcliq"):
        found["radcliq_inverse"] = 1 / value
    if "chexbert" in rows[0]["counts"]:
        counts = [row["counts"]["chexbert"] for row in rows]
        ours, theirs = (np.array([count[side] for count in counts]) for side in ("prediction", "reference"))
        for number, labels in (("14", "all"), ("5", "top5")):
            hits, marked = (marks[:, [*INDICES[labels]]].sum(axis=0) for marks in (ours & theirs, ours + theirs))
            found[f"chexbert_micro_{number}"] = float(2 * hits.sum() / max(marked.sum(), 1))
            found[f"chexbert_macro_{number}"] = float(np.mean(2 * hits / np.maximum(marked, 1)))
    return found | (coco(rows)[0] if "boxes" in rows[0] else {})


def groups(rows: Sequence[Scored]) -> dict[str, dict[str, Any]]:
    """The corpus metrics by label (of reports: what CheXbert finds in the reference) and by number of true boxes."""
    found: dict[str, dict[str, Any]] = {"label": {}, "n_boxes": {}}
    keys = {"label": [row["labels"] for row in rows], "n_boxes": [[row.get("n_boxes")] for row in rows]}
    for kind, of_rows in keys.items():
        for key in sorted({key for of_row in of_rows for key in of_row if key is not None}):
            members = [row for row, of_row in zip(rows, of_rows, strict=True) if key in of_row]
            found[kind][str(key)] = {"samples": len(members), **corpus(members)}
    return found
