"""The command line of data preparation; exit status 0: all done, 1: data refused, 2: wrong use."""

import argparse
import contextlib
import itertools
import os
import signal
import sys
from collections import Counter
from collections.abc import Generator, Sequence
from functools import partial
from typing import Any

from data_prep.checks import validate
from data_prep.checks.box_units import BoxUnits
from data_prep.options import HELP, add_options
from data_prep.problems import Problems, RefusedData
from data_prep.registry import DataSet, data_sets
from data_prep.rewrite import filter, traces
from data_prep.sample import BadSample
from data_prep.selection import select
from data_prep.writer.card import check_place, write_card
from data_prep.writer.dataset import MAX_PIXELS, MIN_PIXELS, DatasetWriter
from data_prep.writer.rows import THINK
from reward_fns.errors import UsageError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `python -m data_prep`; returns the exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(given, argparse.Namespace(command=given))
    try:
        status = int(options.run(options))
        sys.stdout.flush()
        return status
    except UsageError as error:
        return _fail(str(error), 2)
    except RefusedData as error:
        return _fail(str(error), 1)
    except KeyboardInterrupt:
        return _fail("interrupted; nothing was written", 130)
    except BrokenPipeError:  # the reader, e.g. head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), 2)


def _fail(message: str, status: int) -> int:
    print(f"data_prep: {message}", file=sys.stderr)
    return status


def _list(_: argparse.Namespace) -> int:
    for entry in data_sets().values():
        print(f"{entry.name:16}{entry.summary}")
    return 0


def _prepare(chosen: DataSet, options: argparse.Namespace) -> int:
    if missing := [name for name in options.context if name not in chosen.context]:
        offer = f"it has {','.join(chosen.context)}" if chosen.context else "leave --context out"
        raise UsageError(f"--context {','.join(options.context)}: {chosen.name} has no {' or '.join(missing)}; {offer}")
    if options.suffix != THINK and not options.thinking:
        raise UsageError("--suffix is the end of prompts that ask for reasoning: give --thinking, too")
    problems = Problems()
    names = ("thinking", "suffix", "format_hint", "embed", "min_pixels", "max_pixels", "shard_rows")
    writer = DatasetWriter(options.out, options.box_format, **{name: getattr(options, name) for name in names})
    if options.card:
        check_place(options.out)
    with writer:
        try:
            units = _write_samples(chosen, options, writer, problems)
        finally:
            if summary := problems.summary():
                print(summary, file=sys.stderr)
        if problems.found and options.strict:
            raise RefusedData(f"{len(problems.found)} problems under --strict (above); nothing was written")
        if not writer.counts:
            raise RefusedData("not one usable sample; nothing was written")
        kinds = Counter(problem.kind for problem in problems.found)
        complaint = units.complaint(kinds["box_outside"], kinds["swapped_corners"])
        if complaint and not options.trust_boxes:
            advice = "Correct the annotations, or give --trust-boxes if they are right"
            raise RefusedData(f"{complaint}. {advice}; nothing was written")
        writer.finish()
        if problems.found:
            writer.add_text("problems.jsonl", problems.json_lines(), mode=0o600)  # it quotes reports
        differences = [] if options.limit else problems.unexpected(chosen.expected)
        if options.card:
            write_card(chosen, options, writer, problems, differences)
    if problems.found:
        print(f"{options.out / 'problems.jsonl'}: {len(problems.found)} problems", file=sys.stderr)
    for difference in differences:
        print(f"warning: {chosen.name} is not as published: {difference}", file=sys.stderr)
    _print_counts(writer)
    return 0


def _write_samples(chosen: DataSet, options: argparse.Namespace, writer: DatasetWriter, problems: Problems) -> BoxUnits:
    units, loaded = BoxUnits(), chosen.load(options, problems)
    with contextlib.closing(loaded) if isinstance(loaded, Generator) else contextlib.nullcontext():
        samples = itertools.islice(loaded, options.limit)
        for sample in select(samples, options, problems, writer.folder):
            try:
                writer.add(sample)
            except BadSample as error:
                problems.add("unusable_sample", sample.id or "a sample without id", f"{error}; sample not used")
                continue
            if sample.boxes:
                units.add((box.quad for box in sample.boxes), sample.width, sample.height)
    return units


def _print_counts(writer: DatasetWriter) -> None:
    for split, task in sorted({key[:2] for key in writer.counts}):
        count = sum(number for key, number in writer.counts.items() if key[:2] == (split, task))
        name = split if task != "conversation" else f"sft_{split}"
        files = writer.files.get(name, [])
        place = files[0] if len(files) == 1 else f"{writer.out / name}-*.parquet ({len(files)} shards)"
        left_out = f"{count} {task} of {split} have no rows for RL and were left out"
        print(f"{place}: {count} {task}" if files else left_out)


class _Defaults(argparse.ArgumentDefaultsHelpFormatter):
    """Adds the defaults that say something to a reader."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = action.default in (None, False, ()) or "default:" in (action.help or "")
        return action.help if silent else super()._get_help_string(action)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m data_prep",
        description="Turn a data set into the parquet files that verl trains on.",
        epilog="example: python -m data_prep demo --out data/demo",
    )
    commands = parser.add_subparsers(required=True, metavar="SET")
    commands.add_parser("list", help="show the data sets").set_defaults(run=_list)
    for entry in data_sets().values():
        formatter: Any = _Defaults
        texts: dict[str, Any] = {"description": entry.summary, "epilog": f"example: {entry.example}"}
        command = commands.add_parser(entry.name, formatter_class=formatter, help=entry.summary, **texts)
        command.set_defaults(run=partial(_prepare, entry))
        entry.add_arguments(command)
        add_options(command, "prepare")
        command.set_defaults(context=(), min_pixels=MIN_PIXELS, max_pixels=MAX_PIXELS)
    for tool in (validate, filter, traces):
        name, formatter = tool.__name__.rpartition(".")[2], argparse.RawDescriptionHelpFormatter
        command = commands.add_parser(name, formatter_class=formatter, **HELP["commands"][name])
        command.set_defaults(run=tool.run, out=None)
        tool.add_arguments(command)
    return parser
