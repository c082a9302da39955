"""Samples to rows, for verl's RLHFDataset and its MultiTurnSFTDataset: questions and gold answers in our wordings."""

import json
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import Any

import pyarrow as pa
import yaml

from data_prep.sample import KINDS, Sample, stable_hash
from reward_fns.conventions import Frame, get_convention

_Images = list[dict[str, Any]]  # a row's value of `images`
_to_json = json.JSONEncoder(ensure_ascii=False).encode
_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_INFO = ("id", "patient_id", "split", "index", "thinking", "task", "box_format", "width", "height")
_INFO_TYPES = {"index": pa.int64(), "thinking": pa.bool_(), "width": pa.int64(), "height": pa.int64()}
_EXTRA_INFO = pa.struct([(name, _INFO_TYPES.get(name, pa.string())) for name in _INFO])
_QUESTIONS: dict[str, list[str]] = yaml.safe_load((files(__package__) / "questions.yaml").read_text(encoding="utf-8"))
_PARAGRAPH = "Answer with the {} alone: one paragraph of plain text, without headings or lists."
_REPORT_HINT = 'Answer in plain text without lists, as "Findings: ... Impression: ...".'
THINK = " /think"  # asks a model trained so for a reasoning trace
_NOTHING = {False: "There is no such finding.", True: "There is no abnormality."}  # named: every abnormality is asked


def _images_type(embed: bool) -> pa.DataType:
    # verl takes a row for embedded as soon as the key `bytes` exists, whatever its value: one struct for both
    # kinds, with nulls, cannot be read.
    source = ("bytes", pa.binary()) if embed else ("image", pa.string())
    return pa.list_(pa.struct([source, ("min_pixels", pa.int64()), ("max_pixels", pa.int64())]))


@cache
def rl_schema(embed: bool = False) -> pa.Schema:
    """Schema of train, val and test.parquet (verl 0.9.1, RLHFDataset); `embed`: images as bytes, not as paths."""
    model = pa.struct([("style", pa.string()), ("ground_truth", pa.string())])
    columns = [("data_source", pa.string()), ("prompt", _MESSAGES), ("images", _images_type(embed))]
    return pa.schema([*columns, ("ability", pa.string()), ("reward_model", model), ("extra_info", _EXTRA_INFO)])


@cache
def sft_schema(embed: bool = False) -> pa.Schema:
    """Schema of sft_train and sft_val.parquet (verl 0.9.1, MultiTurnSFTDataset)."""
    return pa.schema([("messages", _MESSAGES), ("images", _images_type(embed))])


def rl_row(
    sample: Sample,
    question: str,
    box_format: str,
    frame: Frame,
    images: _Images,
    *,
    index: int,
    thinking: bool,
    suffix: str = THINK,
) -> dict[str, Any]:
    """One row for RL, in `rl_schema`; question and frame are as in `render`, `index` counts rows of its split.

    `thinking` appends `suffix` to the question, which asks for a reasoning trace, as the data script released with
    arXiv 2512.10691 does; there, nothing is appended for Qwen3-VL-Thinking.
    """
    # verl's dumps keep the ground truth but not extra_info: these tell whose row it is and how to read the answer.
    info = {"id": sample.id, "patient_id": sample.patient_id, "task": sample.task, "box_format": box_format}
    sizes = {"width": sample.width, "height": sample.height}
    truth: dict[str, Any] = dict(info)
    if sample.task == "report":
        truth["report"] = sample.report
    else:
        truth["boxes"] = [list(box.quad) for box in sample.boxes]
        truth["labels"] = [box.label for box in sample.boxes]
        truth["frame"] = list(frame)
    return {
        "data_source": f"{sample.dataset}/{sample.task}",
        "prompt": [_user(question + (suffix if thinking else ""), images)],
        "images": images,
        "ability": "radiology",
        "reward_model": {"style": "rule", "ground_truth": _to_json(truth)},
        "extra_info": {**info, **sizes, "split": sample.split, "index": index, "thinking": thinking},
    }


def sft_row(turns: Iterable[tuple[str, str]], images: _Images) -> dict[str, Any]:
    """One row for SFT, in `sft_schema`; asks without the thinking suffix, as gold answers have no reasoning trace."""
    messages = []
    for place, (question, answer) in enumerate(turns):
        asked = {"role": "user", "content": question} if place else _user(question, images)
        messages += [asked, {"role": "assistant", "content": answer}]
    return {"messages": messages, "images": images}


def _user(question: str, images: _Images) -> dict[str, str]:
    return {"role": "user", "content": "<image>\n" * len(images) + question}


def render(sample: Sample, box_format: str, frame: Frame, *, format_hint: bool = False) -> tuple[str, str]:
    """Question (without the image tag) and gold answer of a sample, except a conversation.

    The wording is chosen by a hash of the sample's id, so it never changes between runs or machines.

    `frame` holds the width and height that the coordinates of `box_format` refer to (`Convention.frame`). `format_hint`
    describes the answer format, for models never tuned on it. UsageError: an unknown convention.
    """
    convention = get_convention(box_format)
    kind = sample.kind or KINDS[sample.task][0]
    wordings = _QUESTIONS[kind]
    question = sample.question or wordings[stable_hash(sample.id) % len(wordings)].format(phrase=sample.phrase)
    named = kind == "detection"
    if sample.task == "report":
        answer, hint = sample.report or "", _REPORT_HINT if kind == "report" else _PARAGRAPH.format(kind)
    else:
        answer = convention.render(sample.boxes, frame, named=named) if sample.boxes else _NOTHING[named]
        hint = convention.describe(named=named)
    if sample.indication or sample.prior or sample.lateral:
        question = _context(sample) + question
    if format_hint:
        question = f"{question} {hint}"
    return question, sample.answer or answer


def _context(sample: Sample) -> str:
    """What a report's question says first: which view the second image is, the indication, the previous report."""
    lines = ["The first image is the frontal view, the second the lateral view."] if sample.lateral else []
    if indication := " ".join(sample.indication.split()):
        lines.append(f"Indication for this examination: {indication}")
    if prior := " ".join(sample.prior.split()):
        lines.append(f"Report of the previous examination: {prior}")
    return "\n".join([*lines, ""])
