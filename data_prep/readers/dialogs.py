"""Conversations about one image in the JSON format of LLaVA, and what their answers are."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.problems import Problems
from data_prep.readers.jsons import objects
from data_prep.readers.reports import is_placeholder
from reward_fns.conventions import get_convention

_ASKS, _ANSWERS = ("human", "user"), ("gpt", "assistant")
_TAG = "<image>"
# verl puts an image, video or sound wherever a text has one of these.
_TAGS = re.compile(r"<(?:image|video|audio)>")


class Dialog(NamedTuple):
    """One item: its id, the image's path as written, and questions with their answers, without the image tag."""

    id: str
    image: str
    turns: tuple[tuple[str, str], ...]


class _Unusable(ValueError):
    """Kind of problem of an item, and what is wrong with it."""


def dialogs(path: Path, problems: Problems) -> Iterator[Dialog]:
    """The usable items of a LLaVA file (see the set `llava`): an id not seen before, one image, complete turns.

    Without an id, its place in the file is its id. Errors as `jsons.objects`.
    """
    seen: set[int] = set()
    for place, item in objects(path, problems):
        problems.count("items")
        identity = str(item.get("id") or place)
        try:
            if hash(identity) in seen:
                raise _Unusable("duplicate_id", "this id was used before")
            seen.add(hash(identity))
            yield Dialog(identity, _image(item.get("image")), _turns(item.get("conversations"), problems))
        except _Unusable as error:
            kind, wrong = error.args
            problems.add(kind, f"{place} (id {identity})", f"{wrong}; not used")


def _image(image: Any) -> str:
    if isinstance(image, list) and len(image) == 1:
        image = image[0]
    if isinstance(image, str) and image.strip():
        return image
    kind = "several_images" if isinstance(image, list) and image else "no_image"
    raise _Unusable(kind, f"'image' must be the path of one image, but is {image!r:.80}")


def _turns(messages: Any, problems: Problems) -> tuple[tuple[str, str], ...]:
    texts: list[str] = []
    for message in messages if isinstance(messages, list) else []:
        speaker, value = (message.get("from"), message.get("value")) if isinstance(message, dict) else (None, None)
        wanted = _ANSWERS if len(texts) % 2 else _ASKS
        if speaker not in wanted or not isinstance(value, str):
            wrong = f"message {len(texts) + 1} must be a text from {wanted[0]!r}, but is from {speaker!r}"
            raise _Unusable("bad_conversation", wrong)
        texts.append(value)
    if not texts or len(texts) % 2:
        raise _Unusable("bad_conversation", "needs questions each followed by an answer")
    if _TAG not in texts[0]:
        problems.notes["questions without <image>"] += 1
    texts = [text.strip() for text in (texts[0].replace(_TAG, "", 1), *texts[1:])]
    if any(_TAGS.search(text) for text in texts):
        raise _Unusable("image_tags", "has a tag of an image, video or sound beyond the first <image>")
    if not all(texts):
        raise _Unusable("bad_conversation", "has a question or an answer without text")
    return tuple(zip(texts[::2], texts[1::2], strict=True))


def task_content(
    task: str, dialog: Dialog, source_format: str, frame: tuple[int, int], problems: Problems
) -> dict[str, Any] | None:
    """The fields of a sample that hold question and answer, boxes in `frame`; None, a problem, if not of the task."""
    if task == "conversation":
        return {"turns": dialog.turns}
    where = f"id {dialog.id}"
    (question, answer), *more = dialog.turns
    if more:
        problems.add("several_turns", where, f"task {task} needs one question and its answer; not used")
    elif task == "report":
        if not is_placeholder(answer):
            return {"question": question, "report": answer}
        problems.add("placeholder_report", where, f"the report is {answer[:40]!r}, which says nothing; not used")
    else:
        parsed = get_convention(source_format).parse(answer, frame)
        if not parsed.invalid and not parsed.unreadable:
            if not parsed.boxes:
                problems.notes["answers without a box, read as: nothing there"] += 1
            return {"question": question, "phrase": question, "boxes": parsed.boxes}
        problems.add("bad_box", where, f"the answer has a malformed box by {source_format}: {answer[:200]!r}; not used")
    return None
