"""JSON files of any size, read part by part: a list, one object per line, or the members of one object."""

import io
import json
import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NoReturn

from data_prep.problems import Problems, RefusedData
from reward_fns.errors import UsageError

_BLOCK = 2**20
_LONGEST = 2**26  # characters of one part; more means that a bracket or quote is missing
_DEEPEST = 50  # levels; no published record has more than ten
_SPACE = " \t\r\n"
_DECODER = json.JSONDecoder()


def objects(path: Path, problems: Problems) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each object of a list or of JSON lines, in UTF-8, with its place, "item 3" or "line 3".

    A broken line and an item that is not an object or has a `defect` are problems and skipped. A broken list is
    refused, because behind the break the next item cannot be found.
    """
    with _opened(path, problems) as file:
        start = file.read(_BLOCK).decode("utf-8-sig", "replace").lstrip()[:1]
        file.seek(0)
        for place, item in _parts(path, file, "[]") if start == "[" else _lines(file, problems):
            wrong = defect(item) if isinstance(item, dict) else f"not an object, but {reprlib.repr(item)}"
            if wrong:
                problems.add("bad_json", place, f"{wrong}; not used")
            else:
                yield place, item


def members(path: Path, problems: Problems) -> Iterator[tuple[str, Any]]:
    """Key and value of each member of the one object in a file; a member with a `defect` is a problem and skipped."""
    with _opened(path, problems) as file:
        for key, value in _parts(path, file, "{}"):
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


@contextmanager
def _opened(path: Path, problems: Problems) -> Iterator[IO[bytes]]:
    problems.source(path)
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error


def _lines(file: IO[bytes], problems: Problems) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(file, 1):
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


def _parts(path: Path, file: IO[bytes], brackets: str) -> Iterator[tuple[str, Any]]:
    """Place and value of each item of a list, or key and value of each member of an object."""
    text, number = _Text(path, file), 0
    text.skip(brackets[0])
    while text.next() != brackets[1]:
        if number:
            text.skip(",")
        number += 1
        name = f"item {number}"
        if brackets == "{}":
            name = str(text.take(number))
            text.skip(":")
        yield name, text.take(number)
    text.skip(brackets[1])
    if text.next():
        text.fail("there is more behind its end")


class _Text:
    """The text of a file, of which only what the next part needs is held."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self._path, self._file = path, io.TextIOWrapper(file, "utf-8-sig", newline="")
        self._held, self._at = "", 0

    def next(self) -> str:
        """The next character that is not a space; "" at the end."""
        while True:
            while (character := self._held[self._at : self._at + 1]) and character in _SPACE:
                self._at += 1
            if character or not self._more(_BLOCK):
                return character

    def skip(self, character: str) -> None:
        start = self.next()
        if start != character:
            self.fail(f"expected {character!r}, found {start!r}" if start else f"ends where {character!r} should be")
        self._at += 1

    def take(self, number: int) -> Any:
        self.next()
        block = _BLOCK
        while True:
            try:
                item, self._at = _DECODER.raw_decode(self._held, self._at)
                return item
            except (json.JSONDecodeError, RecursionError) as error:
                # Perhaps the rest of the part was not read yet. Twice as much each time keeps this linear.
                if len(self._held) - self._at > _LONGEST or not self._more(block):
                    self.fail(f"item {number}: {getattr(error, 'msg', error)}")
                block *= 2

    def _more(self, size: int) -> bool:
        try:
            read = self._file.read(size)
        except UnicodeDecodeError as error:
            self.fail(f"not in UTF-8 (byte 0x{error.object[error.start]:02x})")
        self._held, self._at = self._held[self._at :] + read, 0
        return bool(read)

    def fail(self, what: str) -> NoReturn:
        raise RefusedData(f"{self._path} is not valid JSON, or cut short: {what}; mend it or get it again")
