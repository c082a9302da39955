"""Rewrite the reports of prepared data so that only what one film can show remains: no comparison with earlier films,
no history, no recommendation, no mark of a removed name. As the paper does (arXiv 2512.10691), in a prompt of our own.

A language model behind any OpenAI-compatible server does it, or --rules, which need no model, know phrases rather than
meaning, and so are approximate. Every answer is checked: it may hold no number, heading, comment or comparison that
does not belong, and may not be longer than the report. Answers go to a journal, so that the same command goes on where
an earlier one ended. A report of which nothing remains takes its row with it, listed in problems.jsonl; one that the
model failed on is never dropped: see --on-failure.

RL files (rows of task report), the SFT files of the same data, and JSON lines are rewritten into --out under the same
names; images stay where they are. The journal holds report texts: keep it where the data may be.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from data_prep.checks import row as checks
from data_prep.checks.seen import Seen, digest
from data_prep.checks.validate import parquet_files
from data_prep.problems import Problems, RefusedData
from data_prep.rewrite import asking
from data_prep.rewrite.journal import Journal
from data_prep.rewrite.rules import COMPARISON, MARK, visible_only
from data_prep.writer.staging import parquet_rows, read_schema, rewrite, staged, write_problems
from reward_fns.errors import UsageError
from reward_fns.judge.client import Judge

NOTHING = "NOTHING VISIBLE"
"""What the model writes when no statement remains."""

_META = re.compile(
    r"\b(?:here(?:'s| is) the|(?:edited|rewritten|revised|original|provided|given) (?:report|text)|as an ai|"
    r"i (?:have |'ve )?(?:removed|edited|rewrote|kept|omitted|cannot|can't)|sorry|note:|instructions?)\b",
    re.IGNORECASE,
)
_HEADING = re.compile(r"^\s*(?:#+\s.*|[-*]\s.*|\*\*.*|```.*|([A-Z][A-Za-z /]{2,30}):(?=\s|$).*)$", re.MULTILINE)
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m data_prep filter`."""
    parser.add_argument("paths", type=Path, nargs="+", metavar="DIR|FILE", help="folders of parquet files, or files")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the rewritten files")
    parser.add_argument("--rules", action="store_true", help="offline and approximate: by rules, without a model")
    parser.add_argument("--field", default="report", help="key of the report in JSON lines (%(default)s)")
    parser.add_argument(
        "--on-failure",
        choices=("stop", "rules", "keep"),
        default="stop",
        help="what becomes of reports that the model failed on: write nothing and end with status 1 (default), "
        "rewrite them by the rules, or keep them as they are",
    )
    asking.add_arguments(parser, required=False, max_tokens=1024)


def run(options: argparse.Namespace) -> int:
    """Run the command; returns its exit status."""
    if options.rules == bool(options.endpoint and options.model):
        raise UsageError("give either --endpoint and --model, or --rules")
    model = None if options.rules else asking.server(options)
    source = _Source(options.paths, options.field)
    if any(path.absolute().parent == options.out.absolute() for path in source.files):
        raise UsageError(f"--out {options.out} is where the data are; choose another folder, they stay as they are")
    if model is None:
        if options.dry_run:
            print(f"{sum(1 for _ in source.reports()):,} reports; --rules ask nobody", file=sys.stderr)
            return 0
        return _write(source, options, visible_only, {"method": "rules"})
    with asking.journal_of(options) as journal:
        return _with_model(source, options, model, journal)


def _with_model(source: _Source, options: argparse.Namespace, model: Judge, journal: Journal) -> int:
    prompt = asking.template("filter")

    def key(report: str) -> str:
        return asking.key_of(model, prompt, report)

    def questions() -> Iterator[asking.Question]:
        for where, report in source.reports():
            yield asking.Question(
                key(report),
                where,
                len(prompt) + len(report),
                0,
                lambda report=report: asking.fill(prompt, report=report, nothing=NOTHING),  # type: ignore[misc]
                lambda answer, report=report: check(report, answer),  # type: ignore[misc]
            )

    cost = asking.estimate(questions(), journal, lambda question: (question.characters - len(prompt)) // 4)
    if not asking.agreed(options, cost):
        return 0
    problems = Problems()
    asking.ask_all(
        questions(),
        model,
        journal,
        problems,
        requests=cost.requests,
        temperature=0.0,
        max_tokens=options.max_tokens,
        concurrency=options.concurrency,
    )
    if problems.found:
        print(problems.summary(), file=sys.stderr)
        if options.on_failure == "stop":
            write_problems(options.out, problems)
            raise RefusedData(
                f"{len(problems.found)} reports without a usable answer, listed in {options.out / 'problems.jsonl'}; "
                "no data were written. The same command asks for these again; --on-failure rules or keep does without"
            )
    fallback = visible_only if options.on_failure == "rules" else str

    def rewritten(report: str) -> str:
        answer = journal.answer(key(report))
        return fallback(report) if answer is None else answer

    told = {"method": "model", "model": model.model, "endpoint": model.base_url}
    told["prompt_sha256"] = hashlib.sha256(prompt.encode()).hexdigest()
    return _write(source, options, rewritten, told, problems)


def check(report: str, answer: str) -> str:
    """A model's version of a report on one line, "" if the model found nothing to keep.

    Raises:
        Unusable: it is empty, longer than the report, still compares, or has what the report doesn't.

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
        raise asking.Unusable(f"has numbers that the report has not: {', '.join(invented)}")
    for heading in _HEADING.finditer(text):
        if heading[1] is None or f"{heading[1]}:" not in report:
            raise asking.Unusable(f"has a heading or a list: {heading[0][:100]!r}")
    for pattern, what in ((_META, "talks about the task"), (MARK, "has a mark of something removed")):
        if (found := pattern.search(text)) and not (pattern is _META and found[0].lower() in report.lower()):
            raise asking.Unusable(f"{what}: {found[0]!r}")
    if found := COMPARISON.search(text):
        raise asking.Unusable(f"still compares: {found[0]!r}")
    return " ".join(text.split())


class _Source:
    """The files to rewrite, and the reports in them."""

    def __init__(self, paths: list[Path], field: str) -> None:
        self.field = field
        self.json_lines = [path for path in paths if path.suffix == ".jsonl" and path.is_file()]
        found = [file for path in paths if path not in self.json_lines for file in parquet_files(path)]
        self.rl = [path for path in found if not _is_sft(path)]
        self.sft = [path for path in found if _is_sft(path)]
        self.files = [*self.json_lines, *found]
        if not (self.rl or self.json_lines):
            raise UsageError("SFT files don't tell which answers are reports; give the RL files of the same data, too")
        names = Counter(path.name for path in self.files)
        if twice := [name for name, count in names.items() if count > 1]:
            raise UsageError(f"two of the files are called {twice[0]}; rewrite them into folders of their own")

    def reports(self) -> Iterator[tuple[str, str]]:
        """Where each report is, and the report."""
        for path in self.rl:
            for number, row in enumerate(parquet_rows(path)):
                report = _truth(path, number, row).get("report")
                if isinstance(report, str):
                    yield f"{path} row {number}", report
        for path in self.json_lines:
            for number, row in enumerate(_json_rows(path)):
                if isinstance(row.get(self.field), str):
                    yield f"{path} line {number + 1}", row[self.field]


def _is_sft(path: Path) -> bool:
    schema = read_schema(path)
    if defects := checks.schema_defects(schema):
        raise RefusedData(f"{path}: {defects[0][1]}; make it again, or see python -m data_prep validate {path}")
    return checks.is_sft(schema)


def _truth(path: Path, number: int, row: dict[str, Any]) -> dict[str, Any]:
    try:
        return dict(json.loads(row["reward_model"]["ground_truth"]))
    except (ValueError, TypeError) as error:
        raise RefusedData(f"{path} row {number}: ground_truth {error}; make the data again") from error


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError("need a JSON object")
            except (ValueError, RecursionError) as error:
                raise RefusedData(f"{path} line {number}: {error}") from error
            yield row


def _write(
    source: _Source,
    options: argparse.Namespace,
    rewritten: Callable[[str], str],
    told: dict[str, Any],
    problems: Problems | None = None,
) -> int:
    problems = problems or Problems()
    failed = len(problems.found)
    counts: Counter[str] = Counter(reports=0, changed=0)

    def new_report(report: str, where: str) -> str:
        new = rewritten(report)
        counts["reports"] += 1
        counts["changed"] += new != report
        if not new:
            problems.add("nothing visible left", where, f"row left out; the report was {report!r}")
        return new

    with Seen() as seen, staged(options.out) as place:
        for path in source.rl:

            def change(number: int, row: dict[str, Any], path: Path = path) -> dict[str, Any] | None:
                truth = _truth(path, number, row)
                if not isinstance(truth.get("report"), str):
                    return row
                seen.first("report", digest(truth["report"]), "")
                truth["report"] = new_report(truth["report"], f"{path} row {number}")
                row["reward_model"]["ground_truth"] = json.dumps(truth, ensure_ascii=False)
                return row if truth["report"] else None

            counts[path.name] = rewrite(path, place / path.name, change)
        for path in source.sft:

            def change_sft(number: int, row: dict[str, Any], path: Path = path) -> dict[str, Any] | None:
                turn = row["messages"][-1]
                if seen.note("report", digest(turn["content"])) is None:
                    return row
                turn["content"] = new_report(turn["content"], f"{path} row {number}")
                return row if turn["content"] else None

            counts[path.name] = rewrite(path, place / path.name, change_sft)
        for path in source.json_lines:
            with (place / path.name).open("w", encoding="utf-8") as file:
                for number, row in enumerate(_json_rows(path)):
                    if isinstance(row.get(source.field), str):
                        row[source.field] = new_report(row[source.field], f"{path} line {number + 1}")
                    if row.get(source.field) != "":
                        file.write(json.dumps(row, ensure_ascii=False) + "\n")
                        counts[path.name] += 1
        left_out = len(problems.found) - failed
        told |= {"reports": counts["reports"], "changed": counts["changed"], "rows_left_out": left_out}
        told |= {"failed": failed, "on_failure": options.on_failure}
        (place / "filter.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    write_problems(options.out, problems)
    for path in source.files:
        print(f"{options.out / path.name}: {counts[path.name]} rows")
    print(f"{counts['reports']} reports, {counts['changed']} changed, {left_out} left out, {failed} failed")
    return 0
