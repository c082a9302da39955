"""`python -m data_prep validate`: checks of prepared parquet files before a run depends on them; see help.yaml."""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from data_prep.checks import row as checks
from data_prep.checks import row_images
from data_prep.checks.box_units import BoxUnits
from data_prep.checks.findings import FileCounts, Findings, Seen, digest, table
from data_prep.checks.lengths import PromptLengths
from data_prep.checks.row_images import Film, Films
from data_prep.checks.sheet import Sheet, tile_of_row
from data_prep.options import add_options
from reward_fns.errors import UsageError
from reward_fns.ground_truth import Defect, GroundTruth

_BATCH = 64  # rows in memory at a time, with their embedded images


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, "validate", "rewards")


class Validator:
    """One validation: everything that is remembered between rows and files."""

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

    def finish(self) -> None:
        """Check what only shows once all files have been read."""
        for data_set, units in self._units.items():
            if (complaint := units.complaint()) and not self.options.trust_boxes:
                detail = f"{complaint}; prepare the set again, or give --trust-boxes if they are right"
                self.findings.add("implausible boxes", data_set, detail)

    def _check_rows(self, rows: Sequence[dict[str, Any]], counts: FileCounts) -> None:
        sft = counts.kind == "SFT"
        turns = "messages" if sft else "prompt"
        for row in rows:
            row["no images"] = row["images"] is None
            row["images"] = [entry or {} for entry in row["images"] or ()]
            row[turns] = [turn or dict.fromkeys(("role", "content")) for turn in row[turns] or ()]
        sizes = self._films.look_at(entry for row in rows for entry in row["images"])
        places, to_score = [], []
        for row in rows:
            films = [sizes[row_images.identity(entry)] for entry in row["images"]]
            where = f"{counts.path} row {counts.rows}"
            counts.rows += 1
            defects = list(checks.message_defects(row[turns], row["images"], sft=sft))
            defects += [Defect("bad image", film) for film in films if isinstance(film, str)]
            info: Mapping[str, Any] = {}
            truth: GroundTruth | None = None
            split = next((split for split in checks.SPLITS if split in counts.path.stem), "train")
            if sft and row["no images"]:
                detail = "images is null, which verl's MultiTurnSFTDataset can't read; need []"
                defects.append(Defect("missing value", detail))
            if not sft:
                info, truth, broken = checks.read_rl_row(row)
                split = str(info.get("split"))
                where += f" (id {info.get('id')})"
                defects += broken
                stored = info.get("width"), info.get("height")
                if films and isinstance(film := films[0], tuple) and film != stored:
                    detail = f"the image is {film[0]} x {film[1]}, but extra_info says {stored[0]} x {stored[1]}"
                    defects.append(Defect("wrong size", detail))
                counts.add(info, truth)
                self._check_patient(row, info, counts.path)
            counts.splits[split] += 1
            defects += self._repeats(row, info, where, split, sft=sft)
            if self.lengths and not defects:
                gold = self._gold.answer(truth, info) if truth and self.options.max_response else None
                defects += self._too_long(self.lengths, row, films, gold, counts)
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
                self.sheet.offer(tile_of_row(row, info, defects, counts.path.stem), sft=sft)
        self.ceilings.add(to_score)
        for where, shortfall in zip(places, self._gold.shortfalls(to_score, self.spec), strict=True):
            if shortfall:
                self._note(counts, "gold below maximum", where, shortfall)

    def _note(self, counts: FileCounts, kind: str, where: str, detail: str) -> None:
        counts.defects += 1
        self.findings.add(kind, where, detail)

    def _check_patient(self, row: dict[str, Any], info: Mapping[str, Any], path: Path) -> None:
        """Note once per patient and split who is in two splits, by `patient_id` alone: sets share patients."""
        patient, split = info.get("patient_id"), info.get("split")
        if not patient or not split:
            return
        data_set = str(row["data_source"]).partition("/")[0]
        here = f"{split} ({data_set}, {path})"
        before = self._seen.first("patient", digest(patient), f"{split}\n{here}") or f"{split}\n"
        first, _, other = before.partition("\n")
        if first != split and self._seen.first("leak", digest(patient, split), "") is None:
            hint = "" if f"({data_set}," in other else "; if these are two people, give the ids of one set a prefix"
            leak = f"patient {patient} is in {other} and in {here}{hint}"
            self.findings.add("patient in two splits", "all files", leak)

    def _repeats(
        self, row: dict[str, Any], info: Mapping[str, Any], where: str, split: str, *, sft: bool
    ) -> Iterator[Defect]:
        """Ids and questions about the same images that came before, and images that came in another split."""
        films = [row_images.content(entry) for entry in row["images"]]
        asked = [str(turn["content"]) for turn in row["messages" if sft else "prompt"] if turn["role"] == "user"]
        keys = {}
        if not sft:
            keys["id"] = digest(str(row["data_source"]).partition("/")[0], info.get("id"))
        if films:  # reports without their films all ask the same
            keys["question"] = digest("SFT" if sft else "RL", *films, *asked)
        for kind, key in keys.items():
            if before := self._seen.first(kind, key, where):
                yield Defect(f"duplicate {kind}", f"the same as in {before}")
        for film in films:
            before = self._seen.first("split", film, f"{split}\n{where}")
            if before and before.partition("\n")[0] != split:
                yield Defect("image in two splits", f"{split} here, but {before.replace(chr(10), ' in ')}")

    def _too_long(
        self, lengths: PromptLengths, row: dict[str, Any], films: Sequence[Film], gold: str | None, counts: FileCounts
    ) -> Iterator[Defect]:
        sft = counts.kind == "SFT"
        images = [(*film, entry) for film, entry in zip(films, row["images"], strict=True) if isinstance(film, tuple)]
        tokens = lengths.count(row["messages"][:-1] if sft else row["prompt"], images)
        counts.longest_prompt = max(counts.longest_prompt, tokens)
        if not sft and tokens > (limit := self.options.max_prompt_length):
            detail = f"{tokens} tokens, over --max-prompt-length {limit}; lower --max-pixels or raise it"
            yield Defect("prompt too long", detail)
        if gold is not None:
            tokens = lengths.count_text(gold)
            counts.longest_gold = max(counts.longest_gold, tokens)
            if tokens > (most := self.options.max_response):
                detail = f"{tokens} tokens, over --max-response {most}: no response can be that long"
                yield Defect("gold answer too long", detail)

    def _compare_layouts(self, counts: FileCounts, split: str, layout: dict[str, str]) -> None:
        path, other = self._layouts.setdefault((counts.kind, split), (counts.path, layout))
        for name in sorted(layout.keys() & other.keys()):
            if layout[name] != other[name]:
                detail = f"{name} is {layout[name]}, but {other[name]} in {path}; verl can't read them together"
                self._note(counts, "files disagree", str(counts.path), detail)
        if ("images[].bytes" in layout) != ("images[].bytes" in other):
            detail = (
                f"embeds its images and {path} does not, or the reverse; given together, verl takes paths for bytes"
            )
            self._note(counts, "files disagree", str(counts.path), f"{detail}. Prepare both with --embed or without")


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
        print(f"{options.sheet}: {drawn} rows" if drawn else f"{options.sheet}: not written, because no row was chosen")
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
    """The file, or the parquet files of the folder; UsageError if there is none."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UsageError(f"{path}: no such file or folder")
    if files := sorted(file for file in path.glob("*.parquet") if not file.name.startswith(".")):
        return files
    raise UsageError(f"{path}: no parquet file in this folder; make some with python -m data_prep SET --out")
