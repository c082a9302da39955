"""Objects from JSON files of any size: a list of them, one per line, or one by name. Memory holds one at a time."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from data_prep.problems import Problems, RefusedData
from reward_fns.errors import UsageError

_BLOCK = 2**20
_LONGEST = 2**26  # characters of one object; more means that a bracket or quote is missing
_SPACE = " \t\r\n"


def objects(path: Path, problems: Problems) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each object with its place, "item 3" or "line 3", for messages.

    What is no object is a problem and passed over, a broken line too; in a list nothing can be found again behind a
    break, so it refuses the file.

    Args:
        path: a list of objects, or one object per line (JSON lines), in UTF-8.
        problems: is also told that the file was read.

    Raises:
        UsageError: the file cannot be read.
        RefusedData: a list that is broken or cut short, or not in UTF-8.
    """
    problems.source(path)
    try:
        with path.open("rb") as file:
            start = file.read(_BLOCK).decode("utf-8-sig", "replace").lstrip()[:1]
            file.seek(0)
            found = _listed(path, file) if start == "[" else _lines(file, problems)
            for place, item in found:
                if isinstance(item, dict):
                    yield place, item
                else:
                    problems.add("bad_json", place, f"is no object but {str(item)[:60]!r}; not used")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error


def members(path: Path, problems: Problems) -> Iterator[tuple[str, Any]]:
    """Key and value of each member of the one object that a file holds; whatever is wrong with it refuses the file.

    Args:
        path: an object whose values are objects or lists, in UTF-8.
        problems: is told that the file was read.

    Raises:
        UsageError: the file cannot be read.
        RefusedData: it is broken, cut short, no object, or not in UTF-8.
    """
    problems.source(path)
    try:
        with path.open("rb") as file:
            decoder, text = json.JSONDecoder(), _Text(path, file)
            text.skip("{")
            number = 0
            while text.next() != "}":
                if number:
                    text.skip(",")
                number += 1
                key = text.take(decoder, number)
                text.skip(":")
                yield str(key), text.take(decoder, number)
            text.skip("}")
            if text.next():
                text.fail("there is more behind its end")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error


def _lines(file: IO[bytes], problems: Problems) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(file, 1):
        place = f"line {number}"
        try:
            # "utf-8-sig": some editors put a mark in front of the first line.
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            if text:
                yield place, json.loads(text)
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            problems.add("bad_encoding", place, f"is not UTF-8 (byte 0x{byte:02x}); not used, save the file as UTF-8")
        except (ValueError, RecursionError) as error:
            problems.add("bad_json", place, f"is not valid JSON: {error}; not used")


def _listed(path: Path, file: IO[bytes]) -> Iterator[tuple[str, Any]]:
    decoder, text = json.JSONDecoder(), _Text(path, file)
    text.skip("[")
    number = 0
    while text.next() != "]":
        if number:
            text.skip(",")
        number += 1
        yield f"item {number}", text.take(decoder, number)
    text.skip("]")
    if text.next():
        text.fail("there is more behind its end")


class _Text:
    """The text of a file, of which as much is held as the next object needs."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self._path, self._file = path, file
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._held, self._at, self._ended = "", 0, False

    def next(self) -> str:
        """The next character that is no space; "" at the end."""
        while True:
            while self._at < len(self._held) and self._held[self._at] in _SPACE:
                self._at += 1
            if self._at < len(self._held) or not self._more(_BLOCK):
                return self._held[self._at : self._at + 1]

    def skip(self, character: str) -> None:
        found = self.next()
        if found != character:
            self.fail(f"expected {character!r}, found {found!r}" if found else f"ends where {character!r} should be")
        self._at += 1

    def take(self, decoder: json.JSONDecoder, number: int) -> Any:
        self.next()
        block = _BLOCK
        while True:
            try:
                item, self._at = decoder.raw_decode(self._held, self._at)
                return item
            except (json.JSONDecodeError, RecursionError) as error:
                # Perhaps only the rest of the object is not there yet. Twice as much each time keeps this linear.
                if len(self._held) - self._at > _LONGEST or not self._more(block):
                    self.fail(f"item {number}: {getattr(error, 'msg', error)}")
                block *= 2

    def _more(self, size: int) -> bool:
        if self._ended:
            return False
        read = self._file.read(size)
        self._ended = not read
        try:
            self._held = self._held[self._at :] + self._decoder.decode(read, final=self._ended)
        except UnicodeDecodeError as error:
            self.fail(f"not in UTF-8 (byte 0x{error.object[error.start]:02x})")
        self._at = 0
        return not self._ended

    def fail(self, what: str) -> None:
        raise RefusedData(f"{self._path} is not valid JSON, or cut short: {what}; mend it or get it again")
