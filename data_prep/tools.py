"""The commands that work on data that are already prepared, beside the data sets."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from data_prep.checks import validate
from data_prep.rewrite import filter, traces


@dataclass(frozen=True)
class Tool:
    """A command: its name, one line about it, its whole story for --help, its options and what it does.

    `run` gets the parsed options and returns the exit status.
    """

    name: str
    summary: str
    description: str
    example: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


TOOLS = (
    Tool(
        "validate",
        "check prepared data before a run depends on them",
        validate.__doc__ or "",
        "python -m data_prep validate data/mine --sheet sheet.png --json report.json",
        validate.add_arguments,
        validate.run,
    ),
    Tool(
        "filter",
        "rewrite reports so that only what is visible remains",
        filter.__doc__ or "",
        "python -m data_prep filter data/mine --out data/clean --endpoint http://127.0.0.1:8000/v1 --model NAME --yes",
        filter.add_arguments,
        filter.run,
    ),
    Tool(
        "traces",
        "have a teacher model write reasoning for a cold start",
        traces.__doc__ or "",
        "python -m data_prep traces data/mine --out data/cold --endpoint http://127.0.0.1:8000/v1 --model NAME --yes",
        traces.add_arguments,
        traces.run,
    ),
)


def add_to(commands: Any) -> None:
    """Give a parser's subcommands one for each tool."""
    for tool in TOOLS:
        command = commands.add_parser(
            tool.name,
            help=tool.summary,
            description=tool.description,
            epilog=f"example: {tool.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(set=tool, out=None)
        tool.add_arguments(command)
