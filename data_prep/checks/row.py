"""What a prepared row must be for verl 0.9.1 to read it and for the rewards to score it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from data_prep.sample import SPLITS, TASKS
from data_prep.writer.rows import rl_schema, sft_schema
from reward_fns.conventions import CONVENTIONS

Defect = tuple[str, str]
"""A short fixed kind, and what exactly is wrong."""

RL_TASKS = tuple(task for task in TASKS if task != "conversation")
"""Tasks that rewards can score."""
_OTHER_MEDIA = ("<video>", "<audio>")
_ROLES = ("system", "user", "assistant")


def is_sft(schema: pa.Schema) -> bool:
    """Whether a file is for verl's MultiTurnSFTDataset (`messages`), rather than for its RLHFDataset (`prompt`)."""
    return "messages" in schema.names and "prompt" not in schema.names


def schema_defects(schema: pa.Schema) -> list[Defect]:
    """What is missing in a file's columns, or of a type that verl or the rewards can't use."""
    keys = _image_keys(schema)
    if keys == {"image", "bytes"}:
        # The branch for embedded images is taken as soon as the key is there, for rows that only have a path too.
        found = [
            ("both image and bytes", "images have both keys, image and bytes; verl reads such paths as empty images")
        ]
    elif not keys and "images" in schema.names:
        found = [("wrong type", f"images is {schema.field('images').type}; need a list of {{image}} or {{bytes}}")]
    else:
        found = []
    wanted = sft_schema("bytes" in keys) if is_sft(schema) else rl_schema("bytes" in keys)
    for field in wanted:
        if field.name not in schema.names:
            found.append(("missing column", f"there is no column {field.name} ({field.type})"))
        elif field.name != "images" or len(keys) == 1:
            found += [
                ("wrong type", text) for text in _differences(field.type, schema.field(field.name).type, field.name)
            ]
    return found


def _image_keys(schema: pa.Schema) -> set[str]:
    if "images" not in schema.names:
        return set()
    images = schema.field("images").type
    element = images.value_type if _is_list(images) else None
    if element is None or not pa.types.is_struct(element):
        return set()
    return {field.name for field in element} & {"image", "bytes"}


def layout(schema: pa.Schema) -> dict[str, str]:
    """Type of every value in a file by its path, e.g. "extra_info.id": what must agree where files are concatenated."""
    leaves: dict[str, str] = {}

    def walk(kind: pa.DataType, path: str) -> None:
        if pa.types.is_struct(kind):
            for field in kind:
                walk(field.type, f"{path}.{field.name}")
        elif _is_list(kind):
            walk(kind.value_type, path)
        else:
            leaves[path] = str(kind)

    for field in schema:
        walk(field.type, field.name)
    return leaves


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _differences(wanted: pa.DataType, found: pa.DataType, path: str) -> Iterator[str]:
    if pa.types.is_struct(wanted):
        if not pa.types.is_struct(found):
            yield f"{path} is {found}, need a struct"
            return
        names = {field.name: field.type for field in found}
        for field in wanted:
            if field.name in names:
                yield from _differences(field.type, names[field.name], f"{path}.{field.name}")
            else:
                yield f"{path} has no {field.name} ({field.type})"
    elif _is_list(wanted):
        if _is_list(found):
            yield from _differences(wanted.value_type, found.value_type, path)
        else:
            yield f"{path} is {found}, need a list"
    elif not _same_family(wanted, found):
        yield f"{path} is {found}, need {wanted}"


def _same_family(wanted: pa.DataType, found: pa.DataType) -> bool:
    families = (
        (pa.types.is_string, pa.types.is_large_string),
        (pa.types.is_binary, pa.types.is_large_binary),
        (pa.types.is_integer,),
        (pa.types.is_boolean,),
    )
    return any(any(test(wanted) for test in tests) and any(test(found) for test in tests) for tests in families)


def message_defects(
    messages: Sequence[Mapping[str, Any]], images: Sequence[Mapping[str, Any]], *, sft: bool
) -> Iterator[Defect]:
    """What is wrong with the turns of a row and the places of its images in them."""
    contents = [str(turn["content"] or "") for turn in messages]
    if not messages or not all(content.strip() for content in contents):
        yield "empty message", f"{'messages' if sft else 'prompt'} must be turns with text, got {str(messages)[:200]}"
        return
    roles = [turn.get("role") for turn in messages]
    last = "assistant" if sft else "user"
    if roles[-1] != last or not set(roles) <= set(_ROLES) or "user" not in roles:
        yield "wrong roles", f"roles are {roles}; they must end with {last}"
    places = sum(content.count("<image>") for content in contents)
    if places != len(images):
        yield "wrong image count", f"{places} times <image> in the text, but {len(images)} images"
    for tag in _OTHER_MEDIA:
        if any(tag in content for content in contents):
            yield "wrong image count", f"the text has {tag}, for which verl looks for a column of its own"
    for entry in images:
        low, high = entry.get("min_pixels"), entry.get("max_pixels")
        if low is not None and high is not None and not 0 < low <= high:
            yield "bad pixel bounds", f"need 0 < min_pixels <= max_pixels, got {low} and {high}"


def truth_of(ground_truth: Any) -> Mapping[str, Any]:
    """The content of a row's ground truth.

    Raises:
        ValueError: it is no JSON object, or has NaN or infinity, which JSON does not.
    """

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is no number of JSON")

    try:
        truth = json.loads(ground_truth, parse_constant=refuse)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"not JSON ({error}): {str(ground_truth)[:200]!r}") from error
    if not isinstance(truth, dict):
        raise ValueError(f"must be a JSON object, got {str(ground_truth)[:200]!r}")
    return truth


def info_defects(data_source: Any, info: Mapping[str, Any], images: int) -> Iterator[Defect]:
    """What is wrong with `extra_info` in itself and against `data_source`, in a row with so many images."""
    missing = [key for key, value in info.items() if value is None or value == ""]
    if missing:
        yield "missing value", f"extra_info has no {', '.join(missing)}"
    for key, valid in (("split", SPLITS), ("task", RL_TASKS), ("box_format", tuple(CONVENTIONS))):
        if info.get(key) and info[key] not in valid:
            yield "unknown value", f"extra_info.{key} is {info[key]!r}, need one of {', '.join(valid)}"
    least = 1 if images else 0
    if any(info.get(side) is not None and info[side] < least for side in ("width", "height")):
        yield "bad size", f"width and height must be at least {least}, got {info['width']} x {info['height']}"
    name, slash, task = str(data_source or "").rpartition("/")
    if not (name and slash) or task != info.get("task"):
        yield "rows disagree", f"data_source {data_source!r} must be <set>/{info.get('task')}, as extra_info.task says"


def truth_defects(truth: Mapping[str, Any], info: Mapping[str, Any]) -> Iterator[Defect]:
    """What is wrong with a row's ground truth in itself and against `extra_info`."""
    for key in ("id", "patient_id", "task", "box_format"):
        if key in truth and truth[key] != info.get(key):
            yield "rows disagree", f"{key} is {truth[key]!r} in ground_truth and {info.get(key)!r} in extra_info"
    if info.get("task") == "report":
        report = truth.get("report")
        if not isinstance(report, str) or not report.strip():
            yield "bad ground truth", f"needs a report that is not empty, got {report!r}"
        return
    boxes, labels = truth.get("boxes"), truth.get("labels")
    if not isinstance(boxes, list):
        yield "bad ground truth", f"needs boxes, a list of [x1, y1, x2, y2], got {boxes!r}"
        return
    if labels is not None and (not isinstance(labels, list) or len(labels) != len(boxes)):
        yield "bad ground truth", f"has {len(boxes)} boxes, but labels {labels!r}"
    for box in boxes:
        yield from box_defects(box)
    if info.get("box_format") == "qwen25vl" and not _is_size(truth.get("frame")):
        yield "bad ground truth", f"qwen25vl needs frame, width and height of the resized image: {truth.get('frame')!r}"


def _is_size(frame: Any) -> bool:
    return isinstance(frame, list) and len(frame) == 2 and all(type(side) is int and side > 0 for side in frame)


def is_quad(box: Any) -> bool:
    """Whether this is a list of four finite numbers."""
    if not isinstance(box, list) or len(box) != 4 or not all(type(value) in (int, float) for value in box):
        return False
    return all(abs(value) <= sys.float_info.max for value in box)  # as math.isfinite, but also for any integer


def box_defects(box: Any) -> Iterator[Defect]:
    """What is wrong with a box as JSON has it."""
    if not is_quad(box):
        yield "bad box", f"{box!r} is not four finite numbers"
        return
    x1, y1, x2, y2 = box
    if min(box) < 0 or max(box) > 1:
        yield "box outside", f"{box} leaves the image: corners are shares of its width and height, from 0 to 1"
    elif x1 >= x2 or y1 >= y2:
        yield "swapped corners", f"{box} needs x1 < x2 and y1 < y2: upper left corner first, then lower right"
