"""JSON files: a list, one object per line, the members of one object, or dialogs.

Lines are read one by one. Any other file is held in memory whole, which takes 3.8 times its size, measured with 100 MB
of dialogs, or 4.8 times if a character is beyond Latin-1.
"""

import json
import re
import reprlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from data_prep.problems import Problems, RefusedData
from data_prep.readers import tables
from data_prep.readers.reports import is_placeholder
from reward_fns.answers import is_unreadable, read_quads
from reward_fns.conventions import get_convention
from reward_fns.errors import UsageError

_BLOCK = 2**20  # bytes in which the first character of a file is looked for
_DEEPEST = 50  # levels; no published record has more than ten
_ASKS, _ANSWERS = ("human", "user"), ("gpt", "assistant")
_TAG = "<image>"
# verl puts an image, video or sound wherever a text has one of these.
_TAGS = re.compile(r"<(?:image|video|audio)>")
# Where an answer gives boxes: an object without brackets, or brackets around nothing but numbers and brackets.
_PLACES = re.compile(r"""\{[^{}\[\]]*\}|[\[(][-+\d.,eE\s\[\]()"'\\]{0,300}[\])]""")
_NUMBER = re.compile(r"(?<![\w.])\.?\d[\d.]*(?:[eE][-+]?\d+)?")
_MARK = re.compile(r"</?\|?[A-Za-z_]+\|?>")  # around a box, such as <|box_start|>; is_unreadable takes it for a box


def read(path: Path, problems: Problems, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """The content of a JSON file in UTF-8, all of it in memory; `pairs` is json.load's object_pairs_hook.

    UsageError: the file cannot be opened. RefusedData: it is not JSON to its end.
    """
    problems.source(path)
    try:
        with path.open(encoding="utf-8-sig") as file:
            return json.load(file, object_pairs_hook=pairs)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise RefusedData(f"{path} is not valid JSON, or cut short: {error}; mend it or get it again") from error


def objects(path: Path, problems: Problems) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each object of a list or of JSON lines, with its place; broken ones are problems, a broken list is refused."""
    for place, item in _items(path, problems):
        wrong = defect(item) if isinstance(item, dict) else f"not an object, but {reprlib.repr(item)}"
        if wrong:
            problems.add("bad_json", place, f"{wrong}; not used")
        else:
            yield place, item


def members(path: Path, problems: Problems) -> Iterator[tuple[str, Any]]:
    """Key and value of each member of the one object in a file; a member with a `defect` is a problem and skipped."""
    outermost: list[tuple[str, Any]] = []  # not a dictionary, which would hide all but the last member of a key

    def keep(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal outermost
        outermost = pairs  # the outermost object is complete last
        return dict(pairs)

    if not isinstance(content := read(path, problems, keep), dict):
        raise RefusedData(f"{path} must hold one object, but holds {reprlib.repr(content)}; get it again")
    for key, value in outermost:
        if wrong := defect([key, value]):
            problems.add("bad_json", f"{path.name}: {key!a}", f"{wrong}; not used")
        else:
            yield key, value


def defect(item: Any, depth: int = 1) -> str:
    """Why a parsed value cannot be stored: half of a surrogate pair, or deep nesting; "" if it can."""
    if isinstance(item, str):
        try:
            item.encode()
        except UnicodeEncodeError:
            return f"holds half of a surrogate pair, which is not a character: {reprlib.repr(item)}"
    if not isinstance(item, dict | list):
        return ""
    if depth > _DEEPEST:
        return f"is nested more than {_DEEPEST} levels deep"
    parts = (*item, *item.values()) if isinstance(item, dict) else item
    return next(filter(None, (defect(part, depth + 1) for part in parts)), "")


def _items(path: Path, problems: Problems) -> Iterator[tuple[str, Any]]:
    """Place and value of each item of a list, or of each line."""
    problems.source(path)
    try:
        with path.open("rb") as file:
            if file.read(_BLOCK).decode("utf-8-sig", "replace").lstrip()[:1] != "[":
                file.seek(0)
                yield from _lines(file, path, problems)
                return
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    for number, item in enumerate(read(path, problems), 1):
        yield f"item {number}", item


def _lines(file: IO[bytes], path: Path, problems: Problems) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(tables.lines(file, path), 1):
        place = f"line {number}"
        try:
            # "utf-8-sig": some editors put a mark in front of the first line.
            if text := line.decode("utf-8-sig" if number == 1 else "utf-8").strip():
                yield place, json.loads(text)
        except UnicodeDecodeError as error:
            byte = f"byte 0x{error.object[error.start]:02x}"
            problems.add("bad_encoding", place, f"is not UTF-8 ({byte}); not used, save the file as UTF-8")
        except (ValueError, RecursionError) as error:
            problems.add("bad_json", place, f"is not valid JSON: {error}; not used")


class Dialog(NamedTuple):
    """One item: its id, the image's path as written, and questions with their answers, without the image tag."""

    id: str
    image: str
    turns: tuple[tuple[str, str], ...]


class _Unusable(ValueError):
    """Kind of problem of an item, and what is wrong with it."""


def dialogs(path: Path, problems: Problems) -> Iterator[Dialog]:
    """The usable items of a LLaVA file (see the set `llava`); one without an id has its place. Errors as `objects`."""
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
    path = image[0] if isinstance(image, list) and len(image) == 1 else image
    if isinstance(path, str) and path.strip():
        return path
    kind = "several_images" if isinstance(image, list) and image else "no_image"
    raise _Unusable(kind, f"'image' must be the path of one image, but is {image!r:.80}")


def _turns(messages: Any, problems: Problems) -> tuple[tuple[str, str], ...]:
    texts: list[str] = []
    for message in messages if isinstance(messages, list) else []:
        speaker, value = map(message.get, ("from", "value")) if isinstance(message, dict) else (None, None)
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
        unreadable = is_unreadable(_without_boxes(answer)) if parsed.boxes else parsed.unreadable
        if not parsed.invalid and not unreadable:
            if not parsed.boxes:
                problems.notes["answers without a box, read as: nothing there"] += 1
            return {"question": question, "phrase": question, "boxes": parsed.boxes}
        swapped = any(x1 >= x2 or y1 >= y2 for x1, y1, x2, y2 in parsed.invalid)
        wrong = f"the answer has a malformed box by {source_format}: {answer[:200]!r}; not used"
        problems.add("swapped_corners" if swapped else "bad_box", where, wrong)
    return None


def _without_boxes(answer: str) -> str:
    """An answer with an empty list in place of boxes that can be read: what still looks like a box is malformed.

    >>> _without_boxes("[0.1, 0.2, 0.3, 0.4], (1, 2), (3, 4) or <box>[5, 6</box>")
    '[] or [5, 6'
    """

    def emptied(match: re.Match[str]) -> str:
        return "[]" if len(_NUMBER.findall(match[0])) == 4 * len(read_quads(match[0])) else match[0]

    return _MARK.sub("", _PLACES.sub(emptied, answer))
