"""What has been seen before, for any number of rows, in memory that does not grow with them."""

from __future__ import annotations

import hashlib
import json
import sqlite3

from data_prep.readers.closing import Closing


def digest(*parts: str | bytes | None) -> bytes:
    """16 bytes that stand for these parts; different parts never give the same ones in practice."""
    whole = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else json.dumps(part).encode()
        whole.update(len(data).to_bytes(8, "big") + data)
    return whole.digest()[:16]


class Seen(Closing):
    """Remembers a short note per key, in a private file of SQLite's that goes when this closes.

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

    def close(self) -> None:
        """Forget everything."""
        self._database.close()

    def first(self, kind: str, key: bytes, note: str) -> str | None:
        """The note that this key has got before, else None, and from now on it has this one."""
        added = self._database.execute("INSERT OR IGNORE INTO seen VALUES (?, ?, ?)", (kind, key, note))
        return None if added.rowcount else self.note(kind, key)

    def note(self, kind: str, key: bytes) -> str | None:
        """The note of a key, None if it was never seen."""
        found = self._database.execute("SELECT note FROM seen WHERE kind = ? AND key = ?", (kind, key)).fetchone()
        return found[0] if found else None

    def set(self, kind: str, key: bytes, note: str) -> None:
        """Give a key this note, whatever it had before."""
        self._database.execute("INSERT OR REPLACE INTO seen VALUES (?, ?, ?)", (kind, key, note))
