"""Check prepared parquet files before a run depends on them. Exit status 0: passed, 1: not passed, 2: wrong use.

Checked are columns and types as verl 0.9.1 reads them; every image (it opens, to its end, with 8 bits and the size that
the row says); boxes, one by one and, for their unit, all of a data set together; the count of <image>; whether
data_source, extra_info and ground_truth agree; ids; rows that ask the same of the same image; patients and images in
two splits, over all files given; and whether the gold answer of every row earns what it should from the rewards
(box_soft_f1 and gleu, or those of --preset or --spec). It also prints what a perfect answer earns in each box format.
With --model the tokens of every prompt are counted with that model's tokenizer and image processor, and with
--max-response those of every gold answer. Files are read row by row: memory does not grow with them.

This command does not load the data with verl itself: python -m recipe.cxr_grpo.read_check does, through verl's own data
set classes and the model's processor, where the package is installed with verl.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from data_prep.checks import row as checks
from data_prep.checks import row_images
from data_prep.checks.box_units import BoxUnits
from data_prep.checks.findings import FileCounts, Findings, table
from data_prep.checks.lengths import PromptLengths
from data_prep.checks.patients import check_disjoint
from data_prep.checks.row_images import Film, Films
from data_prep.checks.seen import Seen, digest
from data_prep.checks.sheet import Sheet, tile_of_row
from data_prep.options import positive
from data_prep.problems import RefusedData
from reward_fns.errors import UsageError
from reward_fns.ground_truth import Defect, GroundTruth

_BATCH = 64  # rows in memory at a time, with their embedded images


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m data_prep validate`."""
    parser.add_argument("paths", type=Path, nargs="+", metavar="DIR|FILE", help="parquet files, or folders of them")
    parser.add_argument("--model", metavar="PATH", help="folder or hub id of a model: counts the tokens of prompts")
    parser.add_argument(
        "--max-prompt-length", type=positive, default=1024, help="tokens, with --model; verl's data.max_prompt_length"
    )
    parser.add_argument(
        "--max-response",
        type=positive,
        metavar="N",
        help="tokens, with --model: list gold answers longer than N, verl's data.max_response_length",
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
    parser.add_argument("--trust-boxes", action="store_true", help="accept boxes that seem to be in a wrong unit")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write counts and defects here")
    parser.add_argument("--sheet", type=Path, metavar="OUT.png", help="draw rows with their boxes here, defects first")
    parser.add_argument("--task", choices=checks.RL_TASKS, help="with --sheet: draw only rows of this task")
    parser.add_argument("--count", type=positive, default=24, help="with --sheet: number of rows (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="with --sheet: another seed draws other rows")


class Validator:
    """One validation: everything that is remembered between rows and files.

    Args:
        options: of the command line, see `add_arguments`.
        seen: where keys are remembered.
    """

    def __init__(self, options: argparse.Namespace, seen: Seen) -> None:
        from data_prep.checks import gold

        if options.max_response and not options.model:
            raise UsageError("--max-response counts tokens with the model's tokenizer; give --model too")
        self._gold = gold
        self.options = options
        self.spec = gold.rewards(options.spec, options.preset)
        self.ceilings = gold.Ceilings(self.spec)
        self.lengths = PromptLengths(options.model) if options.model else None
        self.findings, self.files = Findings(), list[FileCounts]()
        self.sheet = Sheet(options.count, options.seed) if options.sheet else None
        self.with_patients: list[Path] = []
        self._units: dict[str, BoxUnits] = defaultdict(BoxUnits)
        self._films = Films(seen, options.images)
        self._seen = seen
        self._layouts: dict[tuple[str, str], tuple[Path, dict[str, str]]] = {}

    def check(self, path: Path) -> None:
        """Check one file."""
        try:
            file = pq.ParquetFile(path)
            schema, rows = file.schema_arrow, file.metadata.num_rows
        except (OSError, pa.ArrowException) as error:
            self.files.append(FileCounts(path, "unreadable"))
            detail = f"{error}; it is cut off or not a parquet file, make it again"
            self._note(self.files[-1], "unreadable file", str(path), detail)
            return
        counts = FileCounts(path, "SFT" if checks.is_sft(schema) else "RL")
        self.files.append(counts)
        if defects := checks.schema_defects(schema):
            counts.rows = rows
            for kind, detail in defects:
                self._note(counts, kind, str(path), f"{detail}; the rows of this file were not checked")
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
        """Check what only shows once all files have been read."""
        try:
            for leak in check_disjoint(self.with_patients):
                self.findings.add("patient in two splits", "all files", leak)
        except RefusedData as error:
            self.findings.add("unreadable file", "patients", str(error))
        for data_set, units in self._units.items():
            if (complaint := units.complaint()) and not self.options.trust_boxes:
                detail = f"{complaint}; prepare the set again, or give --trust-boxes if they are right"
                self.findings.add("implausible boxes", data_set, detail)

    def _check_rows(self, rows: Sequence[dict[str, Any]], counts: FileCounts) -> None:
        sft = counts.kind == "SFT"
        for row in rows:
            row["no images"] = row["images"] is None
            row["images"] = [entry or {} for entry in row["images"] or ()]
            turns = "messages" if sft else "prompt"
            row[turns] = [turn or dict.fromkeys(("role", "content")) for turn in row[turns] or ()]
        sizes = self._films.look_at(entry for row in rows for entry in row["images"])
        places, to_score = [], []
        for row in rows:
            films = [sizes[row_images.identity(entry)] for entry in row["images"]]
            where = f"{counts.path} row {counts.rows}"
            counts.rows += 1
            defects = list(checks.message_defects(row["messages" if sft else "prompt"], row["images"], sft=sft))
            defects += [Defect("bad image", film) for film in films if isinstance(film, str)]
            info: Mapping[str, Any] = {}
            truth: GroundTruth | None = None
            split = _split_of_sft(counts.path)
            if sft and row["no images"]:
                defects.append(
                    Defect("missing value", "images is null, which verl's MultiTurnSFTDataset can't read; need []")
                )
            if not sft:
                info, truth, broken = checks.read_rl_row(row)
                split = str(info.get("split"))
                where += f" (id {info.get('id')})"
                defects += [*broken, *_size_defects(info, films), *self._same_id(row, info, where)]
                _count_row(counts, info, truth)
            counts.splits[split] += 1
            defects += self._same_question(row, where, sft=sft)
            defects += self._image_in_two_splits(row, where, split)
            if self.lengths and not defects:
                defects += self._prompt_length(self.lengths, row, films, counts, sft=sft)
                if truth:
                    defects += self._gold_length(self.lengths, truth, info, counts)
            for kind, detail in defects:
                self._note(counts, kind, where, detail)
            if truth and not defects:
                if truth.boxes:
                    data_set = str(row["data_source"]).rpartition("/")[0]
                    self._units[data_set].add((box.quad for box in truth.boxes), info["width"], info["height"])
                bounds = {key: entry.get(key) for entry in row["images"][:1] for key in ("min_pixels", "max_pixels")}
                places.append(where)
                to_score.append(self._gold.GoldRow(row["data_source"], truth, info, bounds))
            if self.sheet and row["images"] and self.options.task in (None, info.get("task")):
                self.sheet.offer(tile_of_row(row, info, defects, counts.path.stem))
        self.ceilings.add(to_score)
        for where, shortfall in zip(places, self._gold.shortfalls(to_score, self.spec), strict=True):
            if shortfall:
                self._note(counts, "gold below maximum", where, shortfall)

    def _note(self, counts: FileCounts, kind: str, where: str, detail: str) -> None:
        counts.defects += 1
        self.findings.add(kind, where, detail)

    def _repeats(self, kind: str, key: bytes, where: str) -> list[Defect]:
        before = self._seen.first(kind, key, where)
        return [] if before is None else [Defect(f"duplicate {kind}", f"the same as in {before}")]

    def _same_id(self, row: dict[str, Any], info: Mapping[str, Any], where: str) -> list[Defect]:
        return self._repeats("id", digest(str(row["data_source"]).partition("/")[0], info.get("id")), where)

    def _same_question(self, row: dict[str, Any], where: str, *, sft: bool) -> list[Defect]:
        turns = row["messages" if sft else "prompt"]
        questions = [str(turn["content"]) for turn in turns if turn["role"] == "user"]
        films = [row_images.identity(entry) for entry in row["images"]]
        if not films:  # reports without their films all ask the same
            return []
        return self._repeats("question", digest("SFT" if sft else "RL", *films, *questions), where)

    def _image_in_two_splits(self, row: dict[str, Any], where: str, split: str) -> list[Defect]:
        defects = []
        for entry in row["images"]:
            before = self._seen.first("split", row_images.identity(entry), f"{split}\n{where}")
            if before and before.partition("\n")[0] != split:
                detail = f"{split} here, but {before.replace(chr(10), ' in ')}"
                defects.append(Defect("image in two splits", detail))
        return defects

    def _prompt_length(
        self, lengths: PromptLengths, row: dict[str, Any], films: Sequence[Film], counts: FileCounts, *, sft: bool
    ) -> list[Defect]:
        prompt = row["messages"][:-1] if sft else row["prompt"]
        images = [(*film, entry) for film, entry in zip(films, row["images"], strict=True) if isinstance(film, tuple)]
        tokens, limit = lengths.count(prompt, images), self.options.max_prompt_length
        counts.longest_prompt = max(counts.longest_prompt, tokens)
        if sft or tokens <= limit:
            return []
        detail = f"{tokens} tokens, over --max-prompt-length {limit}; lower --max-pixels or raise it"
        return [Defect("prompt too long", detail)]

    def _gold_length(
        self, lengths: PromptLengths, truth: GroundTruth, info: Mapping[str, Any], counts: FileCounts
    ) -> list[Defect]:
        if not self.options.max_response:
            return []
        tokens = lengths.count_text(self._gold.answer(truth, info))
        counts.longest_gold = max(counts.longest_gold, tokens)
        if tokens <= self.options.max_response:
            return []
        detail = f"{tokens} tokens, over --max-response {self.options.max_response}: no response can be that long"
        return [Defect("gold answer too long", detail)]

    def _compare_layouts(self, counts: FileCounts, split: str, layout: dict[str, str]) -> None:
        path, other = self._layouts.setdefault((counts.kind, split), (counts.path, layout))
        if ("images[].bytes" in layout) != ("images[].bytes" in other):
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


def _count_row(counts: FileCounts, info: Mapping[str, Any], truth: GroundTruth | None) -> None:
    counts.tasks[str(info.get("task"))] += 1
    if truth and truth.task == "grounding":
        counts.boxes += len(truth.boxes)
        counts.without_boxes += not truth.boxes


def _split_of_sft(path: Path) -> str:
    return next((split for split in checks.SPLITS if split in path.stem), "train")


def _size_defects(info: Mapping[str, Any], films: Sequence[Film]) -> list[Defect]:
    stored = info.get("width"), info.get("height")
    return [
        Defect("wrong size", f"the image is {film[0]} x {film[1]}, but extra_info says {stored[0]} x {stored[1]}")
        for film in films[:1]
        if isinstance(film, tuple) and film != stored
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
    passed = not findings.counts
    tasks = {task for counts in validator.files for task in counts.tasks if task in checks.RL_TASKS}
    print("\n".join([*table(validator.files), *validator.ceilings.lines()]))
    if options.max_response:
        longest = max(counts.longest_gold for counts in validator.files)
        print(f"longest gold answer: {longest} tokens; {findings.counts['gold answer too long']} over --max-response")
    if unscored := tasks - validator.spec.tasks.keys():
        print(f"note: gold answers of {', '.join(sorted(unscored))} rows were not scored: no such rewards were named")
    for line in findings.lines():
        print(line)
    if options.sheet and validator.sheet:
        drawn = validator.sheet.write(options.sheet)
        print(f"{options.sheet}: {drawn} rows" if drawn else f"{options.sheet}: not written, there is no row to draw")
    if options.json:
        report = {
            "passed": passed,
            "files": [counts.as_json() for counts in validator.files],
            "box_formats": validator.ceilings.as_json(),
            "defects": dict(findings.counts),
            "listed": [problem._asdict() for listed in findings.listed.values() for problem in listed],
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    total = sum(counts.rows for counts in validator.files)
    print(f"{'passed' if passed else 'FAILED'}: {total} rows in {len(paths)} files, {findings.counts.total()} defects")
    return 0 if passed else 1


def parquet_files(path: Path) -> list[Path]:
    """The file, or the parquet files of the folder.

    Raises:
        UsageError: the path does not exist, or the folder has no parquet file.
    """
    if path.is_dir():
        files = sorted(file for file in path.glob("*.parquet") if not file.name.startswith("."))
        if not files:
            raise UsageError(f"{path}: no parquet file in this folder; make some with python -m data_prep SET --out")
        return files
    if not path.is_file():
        raise UsageError(f"{path}: no such file or folder")
    return [path]
