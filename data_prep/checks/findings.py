"""What a validation remembers: defects by kind, counts per file, and keys that came before."""

import hashlib
import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_prep.problems import Problem, list_cases
from reward_fns.ground_truth import GroundTruth

_LISTED = 1000  # defects of a kind that the JSON lists
_SHOWN = 10


@dataclass
class Findings:
    """Defects by kind: all are counted, and the first of each kind listed."""

    counts: Counter[str] = field(default_factory=Counter)
    listed: dict[str, list[Problem]] = field(default_factory=lambda: defaultdict(list))

    def add(self, kind: str, where: str, detail: str) -> None:
        """Note one; see `Problem`."""
        self.counts[kind] += 1
        if len(self.listed[kind]) < _LISTED:
            self.listed[kind].append(Problem(kind, where, detail))

    def lines(self) -> Iterator[str]:
        """The counts with the first cases of each kind, the most frequent kind first."""
        for kind, count in self.counts.most_common():
            yield from list_cases(f"{kind}: {count}", count, self.listed[kind][:_SHOWN])


@dataclass
class FileCounts:
    """What is in one file; lengths are in tokens."""

    path: Path
    kind: str
    rows: int = 0
    tasks: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    boxes: int = 0
    without_boxes: int = 0
    longest_prompt: int = 0
    longest_gold: int = 0
    defects: int = 0

    def add(self, info: Mapping[str, Any], truth: GroundTruth | None) -> None:
        """Count a row for RL."""
        self.tasks[str(info.get("task"))] += 1
        if truth and truth.task == "grounding":
            self.boxes += len(truth.boxes)
            self.without_boxes += not truth.boxes

    def as_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return {**vars(self), "path": str(self.path), "tasks": dict(self.tasks), "splits": dict(self.splits)}


def table(files: Sequence[FileCounts]) -> list[str]:
    """The counts as lines of a table."""
    head = ("file", "kind", "rows", "report", "grounding", "boxes", "no box", "tokens", "defects")
    rows: list[tuple[Any, ...]] = [head]
    for f in files:
        tasks = f.tasks["report"], f.tasks["grounding"]
        rows.append((f.path.name, f.kind, f.rows, *tasks, f.boxes, f.without_boxes, f.longest_prompt or "-", f.defects))
    widths = [max(len(str(cell)) for cell in column) for column in zip(*rows, strict=True)]
    return ["  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def digest(*parts: str | bytes | None) -> bytes:
    """A hash of these parts in 16 bytes; in practice, different parts have different hashes."""
    total = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else json.dumps(part).encode()
        total.update(len(data).to_bytes(8, "big") + data)
    return total.digest()[:16]


class Seen(AbstractContextManager["Seen"]):
    """Remembers a short note per key, never a text of the data, in an SQLite file that is deleted when this closes.

    >>> with Seen() as seen:
    ...     seen.first("id", digest("a"), "row 1"), seen.first("id", digest("a"), "row 2"), seen.note("id", digest("b"))
    (None, 'row 1', None)
    """

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.executescript(
            "PRAGMA journal_mode = OFF; BEGIN; "
            "CREATE TABLE seen (kind TEXT, key BLOB, note TEXT, PRIMARY KEY (kind, key)) WITHOUT ROWID"
        )

    def __exit__(self, *exception: object) -> None:
        self._database.close()

    def first(self, kind: str, key: bytes, note: str) -> str | None:
        """The note that this key already has; None for a new key, which then gets this note."""
        added = self._database.execute("INSERT OR IGNORE INTO seen VALUES (?, ?, ?)", (kind, key, note))
        return None if added.rowcount else self.note(kind, key)

    def note(self, kind: str, key: bytes) -> str | None:
        """The note of a key, None if it was never seen."""
        stored = self._database.execute("SELECT note FROM seen WHERE kind = ? AND key = ?", (kind, key)).fetchone()
        return stored[0] if stored else None
