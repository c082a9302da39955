"""What a model has answered so far, on disk, so that a run that ends early goes on where it was."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path

from data_prep.checks.seen import Seen, digest
from data_prep.readers.closing import Closing
from reward_fns.errors import UsageError


class Journal(Closing):
    """A file of JSON lines `{"key", "answer", ...}`, of which the last line for a key counts.

    It holds texts of the data: keep it where they may be kept. A line that a kill has cut off is cut away, and its
    question asked again; other lines that can't be read are left and counted in `unreadable`. Memory does not grow with
    the file.

    Args:
        path: of the file, made if need be.

    Raises:
        UsageError: another process is writing to it, or it is no journal.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.unreadable = path, 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        self._places = Seen()
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.close()
            raise UsageError(
                f"{path}: another process is writing to this journal; wait for it, or name another"
            ) from error
        self._read()

    def _read(self) -> None:
        self._file.seek(0)
        start = readable = 0
        for line in self._file:
            if not line.endswith(b"\n"):
                self._file.truncate(start)
                break
            try:
                record = json.loads(line)
                self._places.set("answer", digest(str(record["key"])), str(start))
                readable += 1
            except (ValueError, TypeError, KeyError):
                self.unreadable += 1
            start += len(line)
        if self.unreadable and not readable:
            self.close()
            raise UsageError(f"{self.path}: not a journal of python -m data_prep; name another file")

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
        self._places.close()

    def answer(self, key: str) -> str | None:
        """The answer to a question, None if there is none yet."""
        place = self._places.note("answer", digest(key))
        if place is None:
            return None
        self._file.seek(int(place))
        return str(json.loads(self._file.readline())["answer"])

    def add(self, key: str, answer: str, **more: str) -> None:
        """Keep an answer; with this call's end it is safe from the process being killed."""
        line = json.dumps({"key": key, **more, "answer": answer}, ensure_ascii=True).encode() + b"\n"
        self._file.seek(0, 2)
        place = self._file.tell()
        self._file.write(line)
        self._file.flush()
        self._places.set("answer", digest(key), str(place))
