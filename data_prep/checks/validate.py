"""Check prepared parquet files before a run depends on them. Exit status 0: all is well, 1: not so, 2: wrong use.

Looked at are columns and types as verl 0.9.1 reads them; every image (it opens, to its end, with 8 bits and the size
that the row says); boxes; the count of <image>; whether data_source, extra_info and ground_truth agree; ids; rows that
ask the same of the same image; patients and images in two splits, over all files given; and whether the gold answer of
every row earns the maximum of the rewards (box_soft_f1 and gleu, or those of --preset or --spec). With --model the
length of every prompt is counted with that model's tokenizer and image processor. Files are read row by row: memory
does not grow with them.

What this does not do is to load the data with verl itself: python -m recipe.cxr_grpo.read_check does, through verl's
own data set classes and the model's processor, where the package is installed with verl.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from data_prep.checks import row as checks
from data_prep.checks.films import Films
from data_prep.checks.lengths import PromptLengths
from data_prep.checks.patients import check_disjoint
from data_prep.checks.seen import Seen, digest
from data_prep.checks.sheet import Sheet, Tile
from data_prep.options import positive
from data_prep.problems import Problem, RefusedData
from reward_fns.errors import UsageError

_BATCH = 64  # rows in memory at a time, with their embedded images
_LISTED = 1000  # defects of a kind that the JSON lists
_SHOWN = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m data_prep validate`."""
    parser.add_argument("paths", type=Path, nargs="+", metavar="DIR|FILE", help="parquet files, or folders of them")
    parser.add_argument("--model", metavar="PATH", help="folder or hub id of a model: counts the tokens of prompts")
    parser.add_argument(
        "--max-prompt-length", type=positive, default=1024, help="tokens, with --model; verl's data.max_prompt_length"
    )
    rewards = parser.add_mutually_exclusive_group()
    rewards.add_argument("--preset", help="rewards for the gold answers, from python -m reward_fns list --presets")
    rewards.add_argument("--spec", metavar="FILE", help="rewards for the gold answers, a reward spec in YAML")
    parser.add_argument(
        "--images",
        choices=("decode", "header", "skip"),
        default="decode",
        help="read images to their end (default), their headers only, or not at all",
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="write counts and defects here")
    parser.add_argument("--sheet", type=Path, metavar="OUT.png", help="draw rows with their boxes here, defects first")


@dataclass
class Findings:
    """Defects by kind: all are counted, and the first of each kind kept."""

    counts: Counter[str] = field(default_factory=Counter)
    kept: dict[str, list[Problem]] = field(default_factory=lambda: defaultdict(list))

    def add(self, kind: str, where: str, detail: str) -> None:
        """Note one; see `Problem`."""
        self.counts[kind] += 1
        if len(self.kept[kind]) < _LISTED:
            self.kept[kind].append(Problem(kind, where, detail))

    def lines(self) -> Iterator[str]:
        """What there is to tell, the most frequent kind first."""
        for kind, count in self.counts.most_common():
            yield f"{kind}: {count}"
            yield from (f"  {problem.where}: {problem.detail}" for problem in self.kept[kind][:_SHOWN])
            if count > _SHOWN:
                yield f"  ... and {count - _SHOWN} more"


@dataclass
class FileCounts:
    """What is in one file."""

    path: Path
    kind: str
    rows: int = 0
    tasks: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    boxes: int = 0
    without_boxes: int = 0
    longest_prompt: int = 0
    defects: int = 0

    def as_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return {**vars(self), "path": str(self.path), "tasks": dict(self.tasks), "splits": dict(self.splits)}


class Validator:
    """One validation: everything that is remembered between rows and files.

    Args:
        options: of the command line, see `add_arguments`.
    """

    def __init__(self, options: argparse.Namespace, seen: Seen) -> None:
        from data_prep.checks import gold

        self._gold = gold
        self.spec = gold.rewards(options.spec, options.preset)
        self.lengths = PromptLengths(options.model) if options.model else None
        self.limit = options.max_prompt_length
        self.findings, self.files = Findings(), list[FileCounts]()
        self.sheet = Sheet() if options.sheet else None
        self.with_patients: list[Path] = []
        self._films = Films(seen, options.images)
        self._seen = seen
        self._layouts: dict[tuple[str, str], tuple[Path, dict[str, str]]] = {}

    def check(self, path: Path) -> None:
        """Check one file."""
        try:
            file = pq.ParquetFile(path)
            schema, rows = file.schema_arrow, file.metadata.num_rows
        except (OSError, pa.ArrowException) as error:
            self.files.append(FileCounts(path, "unreadable", defects=1))
            self.findings.add("unreadable file", str(path), f"{error}; it is cut off or no parquet file, make it again")
            return
        counts = FileCounts(path, "SFT" if checks.is_sft(schema) else "RL")
        self.files.append(counts)
        if defects := checks.schema_defects(schema):
            counts.rows, counts.defects = rows, len(defects)
            for kind, detail in defects:
                self.findings.add(kind, str(path), f"{detail}; the rows of this file were not looked at")
            return
        if not rows:
            self._note(counts, "empty file", str(path), "has no rows; leave it out, or make it again")
        try:
            with tqdm(total=rows, desc=path.name, unit="row", disable=not sys.stderr.isatty()) as bar:
                for batch in file.iter_batches(_BATCH):
                    self._check_rows(batch.to_pylist(), counts)
                    bar.update(batch.num_rows)
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
            self._note(counts, "unreadable file", f"{path} after row {counts.rows}", f"{error}; make the file again")
        for split in counts.splits:
            self._compare_layouts(counts, split, checks.layout(schema))
        if counts.kind == "RL":
            self.with_patients.append(path)

    def finish(self) -> None:
        """What can only be told once all files have been read."""
        try:
            for leak in check_disjoint(self.with_patients):
                self.findings.add("patient in two splits", "all files", leak)
        except RefusedData as error:
            self.findings.add("unreadable file", "patients", str(error))

    def _check_rows(self, rows: Sequence[dict[str, Any]], counts: FileCounts) -> None:
        sft = counts.kind == "SFT"
        for row in rows:
            row["no images"] = row["images"] is None
            row["images"] = [entry or {} for entry in row["images"] or ()]
            turns = "messages" if sft else "prompt"
            row[turns] = [turn or dict.fromkeys(("role", "content")) for turn in row[turns] or ()]
        sizes = self._films.look_at(entry for row in rows for entry in row["images"])
        to_score = []
        for row in rows:
            where = f"{counts.path} row {counts.rows}"
            counts.rows += 1
            found = list(checks.message_defects(row["messages" if sft else "prompt"], row["images"], sft=sft))
            films = [sizes[self._films.key(entry)] for entry in row["images"]]
            found += [("bad image", film) for film in films if isinstance(film, str)]
            info: dict[str, Any] = {}
            truth: dict[str, Any] = {}
            split = _split_of_sft(counts.path)
            if sft and row["no images"]:
                found.append(("missing value", "images is null, which verl's MultiTurnSFTDataset can't read; need []"))
            if not sft:
                info, truth, defects = _rl_parts(row)
                found += defects
                split = str(info.get("split"))
                counts.tasks[str(info.get("task"))] += 1
                where += f" (id {info.get('id')})"
                found += _size_defects(info, films)
                found += self._repeats("id", digest(str(row["data_source"]).partition("/")[0], info.get("id")), where)
                if isinstance(truth.get("boxes"), list):
                    counts.boxes += len(truth["boxes"])
                    counts.without_boxes += not truth["boxes"]
            counts.splits[split] += 1
            found += self._same_question(row, where, sft=sft)
            found += self._image_in_two_splits(row, where, split)
            if self.lengths and not found:
                found += self._length(row, films, counts, sft=sft)
            for kind, detail in found:
                self._note(counts, kind, where, detail)
            if not (sft or found):
                to_score.append((where, row, truth, info))
            if self.sheet and row["images"]:
                self._offer(row, truth, info, found, counts)
        scored = [
            (row["data_source"], row["reward_model"]["ground_truth"], truth, info) for _, row, truth, info in to_score
        ]
        for (where, *_), short in zip(to_score, self._gold.shortfalls(scored, self.spec), strict=True):
            if short:
                self._note(counts, "gold below maximum", where, short)

    def _note(self, counts: FileCounts, kind: str, where: str, detail: str) -> None:
        counts.defects += 1
        self.findings.add(kind, where, detail)

    def _repeats(self, kind: str, key: bytes, where: str) -> list[checks.Defect]:
        before = self._seen.first(kind, key, where)
        return [] if before is None else [(f"duplicate {kind}", f"the same as in {before}")]

    def _same_question(self, row: dict[str, Any], where: str, *, sft: bool) -> list[checks.Defect]:
        turns = row["messages" if sft else "prompt"]
        asked = [str(turn["content"]) for turn in turns if turn["role"] == "user"]
        films = [self._films.key(entry) for entry in row["images"]]
        if not films:  # reports without their films all ask the same
            return []
        return self._repeats("question", digest("SFT" if sft else "RL", *films, *asked), where)

    def _image_in_two_splits(self, row: dict[str, Any], where: str, split: str) -> list[checks.Defect]:
        found = []
        for entry in row["images"]:
            before = self._seen.first("split", self._films.key(entry), f"{split}\n{where}")
            if before and before.partition("\n")[0] != split:
                found.append(("image in two splits", f"{split} here, but {before.replace(chr(10), ' in ')}"))
        return found

    def _length(
        self, row: dict[str, Any], films: Sequence[Any], counts: FileCounts, *, sft: bool
    ) -> list[checks.Defect]:
        assert self.lengths is not None
        prompt = row["messages"][:-1] if sft else row["prompt"]
        images = [(*film, entry) for film, entry in zip(films, row["images"], strict=True) if film]
        tokens = self.lengths.count(prompt, images)
        counts.longest_prompt = max(counts.longest_prompt, tokens)
        if sft or tokens <= self.limit:
            return []
        return [
            (
                "prompt too long",
                f"{tokens} tokens, over --max-prompt-length {self.limit}; lower --max-pixels or raise it",
            )
        ]

    def _compare_layouts(self, counts: FileCounts, split: str, layout: dict[str, str]) -> None:
        path, other = self._layouts.setdefault((counts.kind, split), (counts.path, layout))
        if ("images.bytes" in layout) != ("images.bytes" in other):
            detail = (
                f"embeds its images and {path} does not, or the reverse; given together, verl takes paths for bytes"
            )
            self._note(
                counts, "files disagree", str(counts.path), f"{detail}. Prepare both with --embed or both without"
            )
        for name in sorted(layout.keys() & other.keys()):
            if layout[name] != other[name]:
                detail = f"{name} is {layout[name]}, but {other[name]} in {path}; verl can't read them together"
                self._note(counts, "files disagree", str(counts.path), detail)

    def _offer(
        self, row: dict[str, Any], truth: dict[str, Any], info: dict[str, Any], found: list[Any], counts: FileCounts
    ) -> None:
        place = self._films.place(row["images"][0])
        boxes, labels = (truth[key] if isinstance(truth.get(key), list) else [] for key in ("boxes", "labels"))
        drawn = [
            (tuple(map(float, box)), str(labels[i]) if i < len(labels) else "", not list(checks.box_defects(box)))
            for i, box in enumerate(boxes)
            if checks.is_quad(box)
        ]
        turns = row["prompt"] if "prompt" in row else row["messages"]
        text = " / ".join(str(turn["content"]).replace("<image>", "").strip() for turn in turns)
        if truth.get("report"):
            text = f"{text} / {truth['report']}"
        title = f"{info.get('split') or counts.path.stem}  {info.get('id') or 'SFT'}"
        assert self.sheet is not None
        self.sheet.offer(Tile(place, drawn, title, text, found[0][0] if found else ""))


def _rl_parts(row: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], list[checks.Defect]]:
    """`extra_info` and the ground truth of an RL row, each empty if it can't be read, and what is wrong with them."""
    info = row["extra_info"] or {}
    defects = [("missing value", "no extra_info")]
    if info:
        defects = list(checks.info_defects(row["data_source"], info, len(row["images"])))
    try:
        truth = checks.truth_of((row["reward_model"] or {}).get("ground_truth"))
    except ValueError as error:
        return info, {}, [*defects, ("bad ground truth", str(error))]
    return info, dict(truth), defects + list(checks.truth_defects(truth, info))


def _split_of_sft(path: Path) -> str:
    return next((split for split in checks.SPLITS if split in path.stem), "train")


def _size_defects(info: dict[str, Any], films: Sequence[Any]) -> list[checks.Defect]:
    said = info.get("width"), info.get("height")
    return [
        ("wrong size", f"the image is {film[0]} x {film[1]}, but extra_info says {said[0]} x {said[1]}")
        for film in films[:1]
        if isinstance(film, tuple) and film != said
    ]


def run(options: argparse.Namespace) -> int:
    """Run the command; returns its exit status."""
    paths = list(dict.fromkeys(path for given in options.paths for path in parquet_files(given)))
    with Seen() as seen:
        validator = Validator(options, seen)
        for path in paths:
            validator.check(path)
        validator.finish()
    findings = validator.findings
    unscored = {
        task for counts in validator.files for task in counts.tasks if task in checks.RL_TASKS
    } - validator.spec.tasks.keys()
    passed = not findings.counts
    print("\n".join(_table(validator.files)))
    if unscored:
        print(f"note: gold answers of {', '.join(sorted(unscored))} rows were not scored: no such rewards were named")
    for line in findings.lines():
        print(line)
    if options.sheet and validator.sheet:
        drawn = validator.sheet.write(options.sheet)
        print(f"{options.sheet}: {drawn} rows" if drawn else f"{options.sheet}: not written, there is no row to draw")
    if options.json:
        told = {
            "passed": passed,
            "files": [counts.as_json() for counts in validator.files],
            "defects": dict(findings.counts),
            "listed": [problem._asdict() for kept in findings.kept.values() for problem in kept],
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    total = sum(counts.rows for counts in validator.files)
    print(f"{'passed' if passed else 'FAILED'}: {total} rows in {len(paths)} files, {findings.counts.total()} defects")
    return 0 if passed else 1


def parquet_files(path: Path) -> list[Path]:
    """The file, or the parquet files of the folder.

    Raises:
        UsageError: there is none.
    """
    if path.is_dir():
        found = sorted(file for file in path.glob("*.parquet") if not file.name.startswith("."))
        if not found:
            raise UsageError(f"{path}: no parquet file in this folder; make some with python -m data_prep SET --out")
        return found
    if not path.is_file():
        raise UsageError(f"{path}: no such file or folder")
    return [path]


def _table(files: Sequence[FileCounts]) -> list[str]:
    head = ("file", "kind", "rows", "report", "grounding", "boxes", "no box", "tokens", "defects")
    rows = [
        (
            counts.path.name,
            counts.kind,
            *map(str, (counts.rows, counts.tasks["report"], counts.tasks["grounding"], counts.boxes)),
            str(counts.without_boxes),
            str(counts.longest_prompt or "-"),
            str(counts.defects),
        )
        for counts in files
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)]
