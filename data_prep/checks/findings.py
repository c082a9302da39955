"""What a validation found: defects by kind, and counts per file."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
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
    rows: list[tuple[Any, ...]] = [
        ("file", "kind", "rows", "report", "grounding", "boxes", "no box", "tokens", "defects")
    ]
    for f in files:
        tasks = f.tasks["report"], f.tasks["grounding"]
        rows.append((f.path.name, f.kind, f.rows, *tasks, f.boxes, f.without_boxes, f.longest_prompt or "-", f.defects))
    widths = [max(len(str(cell)) for cell in column) for column in zip(*rows, strict=True)]
    return ["  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
