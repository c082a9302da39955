"""Conversations about one image in the JSON format of LLaVA, and what their answers are."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.problems import Problems
from data_prep.readers.jsons import objects
from data_prep.readers.reports import is_placeholder
from reward_fns.conventions import get_convention

_ASKS, _ANSWERS = ("human", "user"), ("gpt", "assistant")
_TAG = "<image>"
# verl puts an image, video or sound wherever a text has one of these.
_TAGS = re.compile(r"<(?:image|video|audio)>")


@dataclass(frozen=True)
class Dialog:
    """One item: its id, the image's path as written, and questions with their answers, without the image tag."""

    id: str
    image: str
    turns: tuple[tuple[str, str], ...]


def dialogs(path: Path, problems: Problems) -> Iterator[Dialog]:
    """The usable items of a LLaVA file; each has an id not seen before, one image and complete turns.

    An item is {"id": ..., "image": path, "conversations": [{"from": "human", "value": "<image>\\n..."}, {"from":
    "gpt", "value": ...}, ...]}. Without an id, its place in the file is its id.

    Raises:
        UsageError, RefusedData: see `jsons.objects`.
    """
    seen: set[int] = set()
    for place, item in objects(path, problems):
        problems.count("items")
        identity = str(item.get("id") or place)
        where = f"{place} (id {identity})"
        if hash(identity) in seen:
            problems.add("duplicate_id", where, "this id was used before; not used")
            continue
        seen.add(hash(identity))
        image = _image(item, where, problems)
        turns = image and _turns(item.get("conversations"), where, problems)
        if image and turns:
            yield Dialog(identity, image, turns)


def _image(item: dict[str, Any], where: str, problems: Problems) -> str | None:
    image = item.get("image")
    if isinstance(image, list) and len(image) == 1:
        image = image[0]
    if isinstance(image, str) and image.strip():
        return image
    kind = "several_images" if isinstance(image, list) and image else "no_image"
    problems.add(kind, where, f"'image' must be the path of one image, but is {image!r:.80}; not used")
    return None


def _turns(messages: Any, where: str, problems: Problems) -> tuple[tuple[str, str], ...] | None:
    texts: list[str] = []
    for message in messages if isinstance(messages, list) else []:
        speaker, value = (message.get("from"), message.get("value")) if isinstance(message, dict) else (None, None)
        wanted = _ANSWERS if len(texts) % 2 else _ASKS
        if speaker not in wanted or not isinstance(value, str):
            wrong = f"message {len(texts) + 1} must be a text from {wanted[0]!r}, but is from {speaker!r}"
            problems.add("bad_conversation", where, f"{wrong}; not used")
            return None
        texts.append(value)
    if not texts or len(texts) % 2:
        problems.add("bad_conversation", where, "needs questions each followed by an answer; not used")
        return None
    if _TAG not in texts[0]:
        problems.notes["questions without <image>"] += 1
    texts = [texts[0].replace(_TAG, "", 1).strip(), *(text.strip() for text in texts[1:])]
    if any(_TAGS.search(text) for text in texts):
        problems.add("image_tags", where, "has a tag of an image, video or sound beyond the first <image>; not used")
        return None
    if not all(texts):
        problems.add("bad_conversation", where, "has a question or an answer without text; not used")
        return None
    return tuple(zip(texts[::2], texts[1::2], strict=True))


def task_content(
    task: str, dialog: Dialog, source_format: str, frame: tuple[int, int], problems: Problems
) -> dict[str, Any] | None:
    """The fields of a sample that hold question and answer, or None, a problem, if they do not fit the task.

    `source_format` is the convention of boxes in the answer, and `frame` what their coordinates refer to.
    """
    if task == "conversation":
        return {"turns": dialog.turns}
    where = f"id {dialog.id}"
    (question, answer), *more = dialog.turns
    if more:
        problems.add("several_turns", where, f"task {task} needs one question and its answer; not used")
        return None
    if task == "report":
        if is_placeholder(answer):
            problems.add("placeholder_report", where, f"the report is {answer[:40]!r}, which says nothing; not used")
            return None
        return {"question": question, "report": answer}
    parsed = get_convention(source_format).parse(answer, frame)
    if parsed.invalid or parsed.unreadable:
        problems.add("bad_box", where, f"the answer has a malformed box by {source_format}: {answer[:200]!r}; not used")
        return None
    if not parsed.boxes:
        problems.notes["answers without a box, read as: nothing there"] += 1
    return {"question": question, "phrase": question, "boxes": parsed.boxes}
