"""A memory of keys for any number of rows, which does not grow with them."""

import hashlib
import json
import sqlite3
from contextlib import AbstractContextManager


def digest(*parts: str | bytes | None) -> bytes:
    """A hash of these parts in 16 bytes; in practice, different parts have different hashes."""
    total = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else json.dumps(part).encode()
        total.update(len(data).to_bytes(8, "big") + data)
    return total.digest()[:16]


class Seen(AbstractContextManager["Seen"]):
    """Remembers a short note per key, in a private SQLite file that is deleted when this closes.

    The file holds digests and what callers note, never a text of the data; up to a few megabytes stay in memory.

    >>> with Seen() as seen:
    ...     seen.first("id", digest("a"), "row 1"), seen.first("id", digest("a"), "row 2"), seen.note("id", digest("b"))
    (None, 'row 1', None)
    """

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute(
            "CREATE TABLE seen (kind TEXT, key BLOB, note TEXT, PRIMARY KEY (kind, key)) WITHOUT ROWID"
        )
        self._database.execute("BEGIN")

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Forget everything."""
        self._database.close()

    def first(self, kind: str, key: bytes, note: str) -> str | None:
        """The note that this key already has; None for a new key, which then gets this note."""
        added = self._database.execute("INSERT OR IGNORE INTO seen VALUES (?, ?, ?)", (kind, key, note))
        return None if added.rowcount else self.note(kind, key)

    def note(self, kind: str, key: bytes) -> str | None:
        """The note of a key, None if it was never seen."""
        stored = self._database.execute("SELECT note FROM seen WHERE kind = ? AND key = ?", (kind, key)).fetchone()
        return stored[0] if stored else None
