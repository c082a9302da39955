"""What a prepared row must be for verl 0.9.1 to read it and for the rewards to score it."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from data_prep.sample import SPLITS, TASKS
from data_prep.writer.rows import rl_schema, sft_schema
from reward_fns.conventions import CONVENTIONS
from reward_fns.ground_truth import Defect, GroundTruth, parse_ground_truth

RL_TASKS = tuple(task for task in TASKS if task != "conversation")  # those that rewards can score
_PLACEHOLDERS = ("", "none", "null", "nan", "na", "nil", "tbd", "nonetype", "undefined", "notavailable")


def is_sft(schema: pa.Schema) -> bool:
    """Whether a file is for verl's MultiTurnSFTDataset (`messages`), rather than for its RLHFDataset (`prompt`)."""
    return "messages" in schema.names and "prompt" not in schema.names


def schema_defects(schema: pa.Schema) -> list[Defect]:
    """What is missing in a file's columns, or of a type that verl or the rewards can't use."""
    types = layout(schema)
    keys = {"image", "bytes"} & {path.removeprefix("images[].") for path in types}
    defects = []
    if len(keys) == 2:
        # The branch for embedded images is taken as soon as the key is there, for rows that only have a path too.
        detail = "images has both keys, image and bytes; verl reads such paths as empty images"
        defects.append(Defect("both image and bytes", detail))
    elif not keys and "images" in schema.names:
        detail = f"images is {schema.field('images').type}; need a list of {{image}} or {{bytes}}"
        defects.append(Defect("wrong type", detail))
    wanted = sft_schema("bytes" in keys) if is_sft(schema) else rl_schema("bytes" in keys)
    for field in wanted:
        if field.name not in schema.names:
            defects.append(Defect("missing column", f"column {field.name} ({field.type}) is missing"))
        elif field.name != "images" or len(keys) == 1:
            leaves = layout(pa.schema([field])).items()
            defects += [Defect("wrong type", text) for path, kind in leaves if (text := _misfit(path, kind, types))]
    return defects


def layout(schema: pa.Schema) -> dict[str, str]:
    """Type of every value in a file by its path, e.g. "prompt[].role": what must agree where files are concatenated."""
    leaves: dict[str, str] = {}

    def walk(kind: pa.DataType, path: str) -> None:
        if pa.types.is_struct(kind):
            for field in kind:
                walk(field.type, f"{path}.{field.name}")
        elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
            walk(kind.value_type, f"{path}[]")
        else:
            leaves[path] = str(kind)

    for field in schema:
        walk(field.type, field.name)
    return leaves


def _misfit(path: str, wanted: str, types: Mapping[str, str]) -> str:
    """What is wrong with the type of a value; wider integers and large texts are as good."""
    if path not in types:
        return f"{path.rpartition('.')[0] or path} has no {path.rpartition('.')[2]} ({wanted})"
    if re.sub(r"^large_|^u(?=int)|\d+$", "", types[path]) != re.sub(r"\d+$", "", wanted):
        return f"{path} is {types[path]}, need {wanted}"
    return ""


def message_defects(
    messages: Sequence[Mapping[str, Any]], images: Sequence[Mapping[str, Any]], *, sft: bool
) -> Iterator[Defect]:
    """What is wrong with the turns of a row and the places of its images in them."""
    contents = [str(turn["content"] or "") for turn in messages]
    if not messages or not all(content.strip() for content in contents):
        column = "messages" if sft else "prompt"
        yield Defect("empty message", f"{column} must be turns with text, got {str(messages)[:200]}")
        return
    roles = [turn.get("role") for turn in messages]
    last = "assistant" if sft else "user"
    if roles[-1] != last or not set(roles) <= {"system", "user", "assistant"} or "user" not in roles:
        yield Defect("wrong roles", f"roles are {roles}; they must end with {last}")
    places = sum(content.count("<image>") for content in contents)
    if places != len(images):
        yield Defect("wrong image count", f"{places} times <image> in the text, but {len(images)} images")
    for tag in ("<video>", "<audio>"):
        if any(tag in content for content in contents):
            yield Defect("wrong image count", f"the text has {tag}, for which verl looks for a column of its own")
    for entry in images:
        low, high = entry.get("min_pixels"), entry.get("max_pixels")
        if low is not None and high is not None and not 0 < low <= high:
            yield Defect("bad pixel bounds", f"need 0 < min_pixels <= max_pixels, got {low} and {high}")


def info_defects(data_source: Any, info: Mapping[str, Any], images: int) -> Iterator[Defect]:
    """What is wrong with `extra_info` in itself and against `data_source`, in a row with so many images."""
    missing = [key for key, value in info.items() if value is None or value == ""]
    if missing:
        yield Defect("missing value", f"extra_info has no {', '.join(missing)}")
    for key, valid in (("split", SPLITS), ("task", RL_TASKS), ("box_format", tuple(CONVENTIONS))):
        if info.get(key) and info[key] not in valid:
            yield Defect("unknown value", f"extra_info.{key} is {info[key]!r}, need one of {', '.join(valid)}")
    least = min(images, 1)
    if any(info.get(side) is not None and info[side] < least for side in ("width", "height")):
        yield Defect("bad size", f"width and height must be at least {least}, got {info['width']} x {info['height']}")
    name, slash, task = str(data_source or "").rpartition("/")
    if not (name and slash) or task != info.get("task"):
        detail = f"data_source {data_source!r} must be <set>/{info.get('task')}, as extra_info.task says"
        yield Defect("rows disagree", detail)


def read_rl_row(row: Mapping[str, Any]) -> tuple[Mapping[str, Any], GroundTruth | None, list[Defect]]:
    """`extra_info` (empty if there is none), the ground truth (None if it is unsound) and the defects of an RL row."""
    info: Mapping[str, Any] = row["extra_info"] or {}
    found = info_defects(row["data_source"], info, len(row["images"]))
    defects = list(found) if info else [Defect("missing value", "no extra_info")]
    stored = (row["reward_model"] or {}).get("ground_truth")
    task = str(info.get("task") or str(row["data_source"]).rpartition("/")[2])
    truth, broken = parse_ground_truth(stored, task)
    return info, truth, [*defects, *broken, *(truth_defects(truth, info) if truth else ())]


def truth_defects(truth: GroundTruth, info: Mapping[str, Any]) -> Iterator[Defect]:
    """What is wrong with a sound ground truth against `extra_info`, and reports that say nothing."""
    for key in ("id", "patient_id", "task", "box_format"):
        if key in truth.stored and truth.stored[key] != info.get(key):
            in_truth = f"{key} is {truth.stored[key]!r} in ground_truth"
            yield Defect("rows disagree", f"{in_truth} and {info.get(key)!r} in extra_info")
    if info.get("box_format") == "qwen25vl" and truth.task == "grounding" and truth.frame is None:
        yield Defect("bad ground truth", "qwen25vl needs frame, width and height of the resized image, in ground_truth")
    if truth.task == "report" and "".join(filter(str.isalpha, truth.report)).lower() in _PLACEHOLDERS:
        detail = f"the report is {truth.report[:40]!r}, which stands for a missing one; leave the row out"
        yield Defect("placeholder report", detail)
