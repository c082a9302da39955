"""Problems of the raw data: counted, listed, and refused where the user asks for it."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

_SHOWN_PER_KIND = 20


class RefusedData(Exception):
    """The data cannot be used as it is (exit status 1); the message says what, where and what to do."""


class Problem(NamedTuple):
    """One defect; what the published files are known to have, such as empty reports, is a note instead."""

    kind: str
    where: str
    detail: str


def list_cases(head: str, count: int, shown: Sequence[Problem]) -> list[str]:
    """Lines on the defects of a kind, of which the first are shown."""
    more = [f"  ... and {count - len(shown)} more"] if count > len(shown) else []
    return [head, *(f"  {case.where}: {case.detail}" for case in shown), *more]


class Problems:
    """Collects what a data set's loader finds, so that no row is dropped silently."""

    def __init__(self) -> None:
        self.found: list[Problem] = []  # what has a defect is left out; `--strict` refuses the data for it
        self.notes: Counter[str] = Counter()  # facts worth knowing that are not defects, e.g. images without boxes
        self.counts: Counter[str] = Counter()  # sizes of the set, usable or not, compared with the published ones
        self.sources: dict[Path, str | None] = {}  # what `--card` hashes: files, or a folder and its files' pattern

    def add(self, kind: str, where: str, detail: str) -> None:
        """Note one defect; see `Problem` for the arguments."""
        # Half of a surrogate pair, as broken JSON may hold, can be neither printed nor stored.
        where, detail = (text.encode(errors="backslashreplace").decode() for text in (where, detail))
        self.found.append(Problem(kind, where, detail))

    def count(self, what: str, number: int = 1) -> None:
        """Count what the set's publication counts too; see `unexpected`. Count 0 to report that there is none."""
        self.counts[what] += number

    def source(self, path: Path, pattern: str | None = None) -> None:
        """Note a file that labels or texts are read from, or with a pattern such as "*.xml" a folder of such files."""
        self.sources[path.absolute()] = pattern

    def unexpected(self, published: Mapping[str, int]) -> list[str]:
        """One line per count that differs from the published one; what the loader did not count is not compared."""
        return [
            f"{what}: {self.counts[what]:,} here, {number:,} as published ({self.counts[what] - number:+,})"
            for what, number in published.items()
            if what in self.counts and self.counts[what] != number
        ]

    def summary(self) -> str:
        """Counts per kind with the first cases of each, one line each; empty without problems and notes."""
        lines = [f"note: {what}: {count}" for what, count in self.notes.items()]
        for kind, count in Counter(problem.kind for problem in self.found).most_common():
            cases = [problem for problem in self.found if problem.kind == kind]
            lines += list_cases(f"{kind}: {count}", count, cases[:_SHOWN_PER_KIND])
        return "\n".join(lines)

    def json_lines(self) -> str:
        """All defects, one JSON object with `kind`, `where` and `detail` per line."""
        return "".join(json.dumps(problem._asdict(), ensure_ascii=False) + "\n" for problem in self.found)
