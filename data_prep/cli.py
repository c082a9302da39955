"""The command line of data preparation; exit status 0: all done, 1: data refused, 2: wrong use."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import sys
from collections import Counter
from collections.abc import Generator, Sequence
from pathlib import Path

from data_prep.options import CONTEXT, context, positive
from data_prep.problems import Problems, RefusedData
from data_prep.registry import DataSet, data_sets
from data_prep.tools import Tool, add_to
from data_prep.writer.card import check_place, remove_card, write_card
from data_prep.writer.dataset import MAX_PIXELS, MIN_PIXELS, DatasetWriter
from reward_fns.errors import UsageError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `python -m data_prep`; returns the exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(given, argparse.Namespace(command=given))
    if options.set is None:
        for known in data_sets().values():
            print(f"{known.name:16}{known.summary}")
        return 0
    try:
        return options.set.run(options) if isinstance(options.set, Tool) else _prepare(options.set, options)
    except UsageError as error:
        return _fail(str(error), 2)
    except RefusedData as error:
        return _fail(str(error), 1)
    except KeyboardInterrupt:
        return _fail("interrupted; nothing was written", 130)
    except OSError as error:
        return _fail(f"{error.filename or options.out}: {error.strerror or error}", 2)


def _fail(message: str, status: int) -> int:
    print(f"data_prep: {message}", file=sys.stderr)
    return status


def _prepare(chosen: DataSet, options: argparse.Namespace) -> int:
    if missing := [name for name in options.context if name not in chosen.context]:
        offer = f"it has {','.join(chosen.context)}" if chosen.context else "it has none; leave the option out"
        raise UsageError(f"--context {','.join(options.context)}: {chosen.name} has no {' or '.join(missing)}; {offer}")
    problems = Problems()
    writer = DatasetWriter(
        options.out,
        options.box_format,
        thinking=options.thinking,
        format_hint=options.format_hint,
        embed=options.embed,
        min_pixels=options.min_pixels,
        max_pixels=options.max_pixels,
        shard_rows=options.shard_rows,
    )
    if options.card:
        check_place(options.out)
    with writer:
        samples = chosen.load(options, problems)
        with contextlib.closing(samples) if isinstance(samples, Generator) else contextlib.nullcontext():
            for sample in itertools.islice(samples, options.limit):
                writer.add(sample)
        if told := problems.summary():
            print(told, file=sys.stderr)
        if problems.found and options.strict:
            raise RefusedData(f"{len(problems.found)} problems under --strict (above); nothing was written")
        if not writer.counts:
            raise RefusedData("not one usable sample; nothing was written")
    _write_problems(options.out / "problems.jsonl", problems)
    differences = [] if options.limit else problems.unexpected(chosen.expected)
    for difference in differences:
        print(f"warning: {chosen.name} is not as published: {difference}", file=sys.stderr)
    if options.card:
        write_card(chosen, options, writer, problems, differences)
    else:
        remove_card(options.out)
    _print_counts(writer)
    return 0


def _print_counts(writer: DatasetWriter) -> None:
    totals: Counter[tuple[str, str]] = Counter()
    for (split, task, _), count in writer.counts.items():
        totals[split, task] += count
    for (split, task), count in sorted(totals.items()):
        name = split if task != "conversation" else f"sft_{split}"
        files = writer.files.get(name, [])
        place = files[0] if len(files) == 1 else f"{writer.out / name}-*.parquet ({len(files)} shards)"
        print(
            f"{place}: {count} {task}" if files else f"{count} {task} of {split} have no rows for RL and were left out"
        )


def _write_problems(path: Path, problems: Problems) -> None:
    """One JSON object per problem; an older list is removed, so that the file always tells of the last run."""
    if not problems.found:
        path.unlink(missing_ok=True)
        return
    unfinished = path.with_name(f".{path.name}-{os.getpid()}")
    unfinished.write_text(problems.json_lines(), encoding="utf-8")
    os.replace(unfinished, path)
    print(f"{path}: {len(problems.found)} problems", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m data_prep",
        description="Turn a data set into the parquet files that verl trains on.",
        epilog="example: python -m data_prep demo --out data/demo",
    )
    commands = parser.add_subparsers(required=True, metavar="SET")
    commands.add_parser("list", help="show the data sets").set_defaults(set=None)
    for known in data_sets().values():
        command = commands.add_parser(
            known.name,
            help=known.summary,
            description=known.summary,
            epilog=f"example: {known.example}",
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        command.set_defaults(set=known)
        known.add_arguments(command)
        _common_arguments(command)
    add_to(commands)
    return parser


def _common_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="folder for the parquet files")
    parser.add_argument(
        "--box-format", default="radvlm", help="box convention of the model: radvlm, qwen3vl, qwen25vl or pixel"
    )
    parser.add_argument("--thinking", action="store_true", help="RL prompts ask for a reasoning trace")
    parser.add_argument("--format-hint", action="store_true", help="describe the answer format in the question")
    parser.add_argument(
        "--context",
        type=context,
        default=(),
        metavar="NAMES",
        help=f"add to the questions for reports, where the set has it, some of {','.join(CONTEXT)}",
    )
    parser.add_argument("--limit", type=positive, help="stop after so many samples")
    parser.add_argument("--embed", action="store_true", help="store images in the parquet files, not as paths")
    parser.add_argument("--strict", action="store_true", help="refuse the data if anything is wrong with it")
    parser.add_argument("--card", action="store_true", help="write README.md: counts, options, versions, hashes")
    parser.add_argument("--shard-rows", type=positive, help="split each parquet file into shards of so many rows")
    parser.add_argument("--min-pixels", type=positive, default=MIN_PIXELS, help="scale images up to this many pixels")
    parser.add_argument("--max-pixels", type=positive, default=MAX_PIXELS, help="scale images down to this many")
