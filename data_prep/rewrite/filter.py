"""`python -m data_prep filter`: reports rewritten so that only what one film can show remains; see help.yaml."""

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from data_prep.checks import row as checks
from data_prep.checks.findings import digest
from data_prep.checks.validate import parquet_files
from data_prep.options import add_options
from data_prep.problems import Problems, RefusedData
from data_prep.readers import jsons, tables
from data_prep.rewrite import asking
from data_prep.rewrite.rules import COMPARISON, MARK, phrase, visible_only
from data_prep.writer.dataset import earlier_tables
from data_prep.writer.staging import parquet_rows, read_schema, rewrite, staged, write_problems
from reward_fns.errors import UsageError
from reward_fns.ground_truth import GroundTruth, parse_ground_truth

NOTHING = "NOTHING VISIBLE"  # the answer of the model when no statement remains
_META = phrase("about_the_task")
_HEADING = re.compile(r"^\s*(?:#+\s.*|[-*]\s.*|\*\*.*|```.*|([A-Z][A-Za-z /]{2,30}):(?=\s|$).*)$", re.MULTILINE)
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, "filter")
    asking.add_arguments(parser, required=False, max_tokens=1024)
    parser.set_defaults(temperature=0.0)


def run(options: argparse.Namespace) -> int:
    """Run the command; returns its exit status."""
    if options.rules == bool(options.endpoint and options.model):
        raise UsageError("give either --endpoint and --model, or --rules")
    model = None if options.rules else asking.server(options)
    source = _Source(options)
    asking.check_targets(source.files, options.out)
    if model is None:
        if options.dry_run:
            print(f"{sum(1 for _ in source.reports()):,} reports; --rules needs no model", file=sys.stderr)
            return 0
        return _write(source, visible_only, {"method": "rules"}, Problems())
    prompt = asking.template("filter")
    key = partial(asking.key_of, model, prompt)

    def questions() -> Iterator[asking.Question]:
        for where, report in source.reports():
            tokens = len(report) // asking.CHARACTERS_PER_TOKEN
            yield asking.Question(
                key(report),
                where,
                len(prompt) // asking.CHARACTERS_PER_TOKEN + tokens,
                tokens,
                partial(asking.fill, prompt, report=report, nothing=NOTHING),
                partial(check, report),
            )

    with asking.answered(options, model, questions) as result:
        if result is None:
            return 0
        journal, problems = result
        fallback = visible_only if options.on_failure == "rules" else str

        def rewritten(report: str) -> str:
            answer = journal.answer(key(report))
            return fallback(report) if answer is None else answer

        summary = {"method": "model", **asking.origin(model, prompt)}
        return _write(source, rewritten, summary, problems)


def check(report: str, answer: str) -> str:
    """A model's version of a report on one line, "" if the model found nothing to keep.

    Raises Unusable if it is empty, longer than the report, still compares, or adds a number, a heading or a comment.

    >>> check("Heart size is unchanged. Small left effusion.", "Small left effusion.")
    'Small left effusion.'
    """
    text = answer.rpartition("</think>")[2].strip()
    if text.strip(" .\"'").upper() == NOTHING:
        return ""
    if not text:
        raise asking.Unusable("is empty")
    if len(text) > 1.1 * len(report) + 20:
        raise asking.Unusable(f"has {len(text)} characters, the report only {len(report)}: {text[:100]!r}")
    if invented := sorted(set(_NUMBER.findall(text)) - set(_NUMBER.findall(report))):
        raise asking.Unusable(f"has numbers that are not in the report: {', '.join(invented)}")
    for heading in _HEADING.finditer(text):
        if heading[1] is None or f"{heading[1]}:" not in report:
            raise asking.Unusable(f"has a heading or a list: {heading[0][:100]!r}")
    for pattern, what in ((_META, "talks about the task"), (MARK, "has the mark of a removed name")):
        if (match := pattern.search(text)) and not (pattern is _META and match[0].lower() in report.lower()):
            raise asking.Unusable(f"{what}: {match[0]!r}")
    if match := COMPARISON.search(text):
        raise asking.Unusable(f"still compares: {match[0]!r}")
    return " ".join(text.split())


class _Source:
    """The files to rewrite, and the reports in them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.json_lines = [path for path in options.paths if path.suffix == ".jsonl" and path.is_file()]
        parquet = [file for path in options.paths if path not in self.json_lines for file in parquet_files(path)]
        self.sft = [path for path in parquet if _is_sft(path)]
        self.rl = [path for path in parquet if path not in self.sft]
        self.files = [*self.json_lines, *parquet]
        if not (self.rl or self.json_lines):
            raise UsageError("SFT files don't say which answers are reports; give the RL files of the same data, too")

    def reports(self) -> Iterator[tuple[str, str]]:
        """Where each report is, and the report."""
        for path in self.rl:
            for number, row in enumerate(parquet_rows(path)):
                if truth := _report_truth(path, number, row):
                    yield f"{path} row {number}", truth.report
        field = self.options.field
        for path in self.json_lines:
            for number, row in _json_rows(path):
                if isinstance(row.get(field), str):
                    yield f"{path} line {number}", row[field]


def _is_sft(path: Path) -> bool:
    schema = read_schema(path)
    if defects := checks.schema_defects(schema):
        raise RefusedData(f"{path}: {defects[0][1]}; make it again, or see python -m data_prep validate {path}")
    return checks.is_sft(schema)


def _report_truth(path: Path, number: int, row: dict[str, Any]) -> GroundTruth | None:
    """The ground truth of a report row, None for a row of another task."""
    if row["extra_info"]["task"] != "report":
        return None
    truth, defects = parse_ground_truth(row["reward_model"]["ground_truth"], "report")
    defect = jsons.defect(dict(truth.stored)) if truth else ""
    if truth is None or defect:
        wrong = f"ground_truth {defect}" if defect else defects[0].detail
        raise RefusedData(f"{path} row {number}: {wrong}; make the data again")
    return truth


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The numbers and objects of a file's lines."""
    with path.open("rb") as file:
        for number, line in enumerate(tables.lines(file, path), 1):
            try:
                row = json.loads(line)
                wrong = jsons.defect(row) if isinstance(row, dict) else "need a JSON object"
                if wrong:
                    raise ValueError(wrong)
            except (ValueError, RecursionError) as error:
                raise RefusedData(f"{path} line {number}: {error}; correct the line or remove it") from error
            yield number, row


def _write(source: _Source, rewritten: Callable[[str], str], summary: dict[str, Any], problems: Problems) -> int:
    """Write the rewritten files; `problems` are what the model failed on, and rows left out are added."""
    options, failed = source.options, len(problems.found)
    counts: Counter[str] = Counter(reports=0, changed=0)
    reports: set[bytes] = set()

    def new_report(report: str, where: str) -> str:
        new = rewritten(report)
        counts["reports"] += 1
        counts["changed"] += new != report
        if not new:
            problems.add("nothing visible left", where, f"row left out; the report was {report!r}")
        return new

    def new_row(path: Path, number: int, row: dict[str, Any]) -> dict[str, Any] | None:
        truth = _report_truth(path, number, row)
        if truth is None:
            return row
        reports.add(digest(truth.report))
        report = new_report(truth.report, f"{path} row {number}")
        row["reward_model"]["ground_truth"] = json.dumps({**truth.stored, "report": report}, ensure_ascii=False)
        return row if report else None

    def new_sft_row(path: Path, number: int, row: dict[str, Any]) -> dict[str, Any] | None:
        turn = row["messages"][-1]
        if digest(turn["content"]) in reports:
            turn["content"] = new_report(turn["content"], f"{path} row {number}")
        return row if turn["content"] else None

    with staged(options.out, earlier_tables, private=True) as folder:
        # The RL files first: only they say which answers of the SFT files are reports.
        for paths, change in ((source.rl, new_row), (source.sft, new_sft_row)):
            for path in paths:
                counts[path.name] = rewrite(path, folder / path.name, partial(change, path))
        for path in source.json_lines:
            with (folder / path.name).open("w", encoding="utf-8") as file:
                for number, row in _json_rows(path):
                    if isinstance(row.get(options.field), str):
                        row[options.field] = new_report(row[options.field], f"{path} line {number}")
                    if row.get(options.field) != "":
                        file.write(json.dumps(row, ensure_ascii=False) + "\n")
                        counts[path.name] += 1
        left_out = len(problems.found) - failed
        summary |= {"reports": counts["reports"], "changed": counts["changed"], "rows_left_out": left_out}
        summary |= {"failed": failed, "on_failure": options.on_failure}
        (folder / "filter.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    write_problems(options.out, problems)
    for path in source.files:
        print(f"{options.out / path.name}: {counts[path.name]} rows")
    print(f"{counts['reports']} reports, {counts['changed']} changed, {left_out} left out, {failed} failed")
    return 0
