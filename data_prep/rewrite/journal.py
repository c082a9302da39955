"""The answers of a model so far, on disk, so that an interrupted run resumes."""

import sqlite3
from contextlib import AbstractContextManager
from pathlib import Path

from reward_fns.errors import UsageError


class Journal(AbstractContextManager["Journal"]):
    """A table of answers by key in an SQLite file, for one process at a time.

    It holds texts of the data, so only its owner can read it. Memory does not grow with the file.

    Args:
        path: the file, made if it does not exist; None for a table in memory.

    Raises:
        UsageError: another process uses the file, or it is not a journal.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
        self._database = sqlite3.connect(":memory:" if path is None else path, timeout=0, isolation_level=None)
        try:
            self._database.executescript(
                # Without fsync: an answer is safe from a kill of the process, not from a power cut.
                "PRAGMA synchronous = OFF; PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; "
                "CREATE TABLE IF NOT EXISTS answers (key PRIMARY KEY, answer TEXT NOT NULL, source, model); COMMIT"
            )
        except sqlite3.DatabaseError as error:
            self.close()
            if "locked" in str(error):
                reason = "another process uses this journal; wait for it"
            else:
                reason = f"not a journal of python -m data_prep ({error})"
            raise UsageError(f"{path}: {reason}, or name another file with --journal") from error

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def answer(self, key: str) -> str | None:
        """The answer to a question, None if there is none yet."""
        row = self._database.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    def add(self, key: str, answer: str, *, where: str, model: str) -> None:
        """Store an answer, with the row it is for and the model that gave it; from then on a kill does not lose it."""
        try:
            self._database.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", (key, answer, where, model))
        except sqlite3.OperationalError as error:
            raise OSError(f"{self.path}: {error}") from error
