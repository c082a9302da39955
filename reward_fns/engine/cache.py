"""What models have found in texts, kept in memory within a bound and, if asked to, on disk."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import sqlite3
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Generic, TypeVar

Found = TypeVar("Found")

_PROTECTED = 0.8  # of the bound, for what was asked for more than once
_WAIT_S = 10.0  # for another process that writes
_log = logging.getLogger(__name__)


class Cache(Generic[Found]):
    """A segmented least-recently-used cache, bounded in bytes.

    What is new is on probation, and goes first when room is needed; what is asked for again is protected. So the
    thousands of rollouts of a step, most of which nobody asks for again, don't drive out the references, which come
    back with each rollout of a group and in every epoch. Not safe for threads by itself.

    >>> cache = Cache[str](100)
    >>> cache.put("reference", "r", 40); cache.get("reference")
    ('r', True)
    >>> for i in range(9):
    ...     cache.put(f"rollout {i}", "x", 40)
    >>> cache.get("reference"), cache.get("rollout 0")
    (('r', False), None)
    """

    def __init__(self, limit: int) -> None:
        self._limits = {True: int(limit * _PROTECTED), False: limit - int(limit * _PROTECTED)}
        self._parts: dict[bool, OrderedDict[str, tuple[Found, int]]] = {True: OrderedDict(), False: OrderedDict()}
        self.bytes = {True: 0, False: 0}

    def __len__(self) -> int:
        return len(self._parts[True]) + len(self._parts[False])

    def get(self, key: str) -> tuple[Found, bool] | None:
        """What is there under a key, and whether this has just proved to be worth protecting; None if nothing is."""
        if key in self._parts[True]:
            self._parts[True].move_to_end(key)
            return self._parts[True][key][0], False
        if key not in self._parts[False]:
            return None
        found, size = self._parts[False].pop(key)
        self.bytes[False] -= size
        self._add(True, key, found, size)
        return found, True

    def put(self, key: str, found: Found, size: int) -> None:
        """Keep something of so many bytes, unless it is there already."""
        if key not in self._parts[True] and key not in self._parts[False]:
            self._add(False, key, found, size)

    def _add(self, protected: bool, key: str, found: Found, size: int) -> None:
        part = self._parts[protected]
        part[key] = found, size
        self.bytes[protected] += size
        # The newest stays in any case: it may be asked for at once.
        while self.bytes[protected] > self._limits[protected] and len(part) > 1:
            _, (_, gone) = part.popitem(last=False)
            self.bytes[protected] -= gone


class Store:
    """A file of findings, shared by the processes of a machine or, where the file system locks, of a cluster.

    What can't be read or written is as if it weren't there: a run never fails for want of a cache.

    Args:
        folder: where the file is made.
        model: all that what is found depends on, but for the text.
    """

    def __init__(self, folder: Path, model: str) -> None:
        self._path = folder / f"{hashlib.sha256(model.encode()).hexdigest()[:32]}.sqlite"
        self._broken = False

    def get(self, texts: Sequence[str]) -> dict[str, bytes]:
        """Those of the texts that are there, with what was stored."""
        if self._broken or not texts or not self._path.exists():
            return {}
        of_key = {_key(text): text for text in texts}
        keys, found = list(of_key), {}
        try:
            with contextlib.closing(self._open()) as connection:
                for i in range(0, len(keys), 500):  # SQLite takes a limited number of variables
                    part = keys[i : i + 500]
                    marks = ",".join("?" * len(part))
                    rows = connection.execute(f"SELECT key, value FROM found WHERE key IN ({marks})", part)
                    found.update({of_key[key]: bytes(value) for key, value in rows})
        except (sqlite3.Error, OSError) as error:
            self._give_up(error)
        return found

    def put(self, values: Mapping[str, bytes]) -> None:
        """Store what was found in texts."""
        if self._broken or not values:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.closing(self._open()) as connection, connection:
                connection.execute("CREATE TABLE IF NOT EXISTS found (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID")
                rows = [(_key(text), value) for text, value in values.items()]
                connection.executemany("INSERT OR IGNORE INTO found VALUES (?, ?)", rows)
        except (sqlite3.Error, OSError) as error:
            self._give_up(error)

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=_WAIT_S)
        connection.execute("PRAGMA synchronous = OFF")  # what a power cut may cost can be found again
        return connection

    def _give_up(self, error: Exception) -> None:
        self._broken = True
        _log.warning("the cache %s is not used any more in this process: %s", self._path, error)


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
