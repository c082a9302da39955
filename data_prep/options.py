"""Command line options: the table of help.yaml, and their types."""

import argparse
import math
import re
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

HELP: Mapping[str, Any] = yaml.safe_load((files(__package__) / "help.yaml").read_text(encoding="utf-8"))
CONTEXT = ("indication", "prior", "lateral")


def positive(text: str) -> int:
    """An integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def probability(text: str) -> float:
    """A number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be from 0 to 1, got {text}")
    return value


def shares(text: str) -> tuple[float, float, float]:
    """Three shares, of train, val and test, that sum to 1, e.g. "0.8,0.1,0.1"."""
    parts = [probability(part) for part in text.split(",")]
    if len(parts) != 3 or not math.isclose(sum(parts), 1, abs_tol=1e-6):
        raise argparse.ArgumentTypeError(f"need three shares train,val,test that sum to 1, got {text}")
    return parts[0], parts[1], parts[2]


def folder(text: str) -> Path:
    """The path of a folder; not an empty text, which would mean the current one."""
    if not text.strip():
        raise argparse.ArgumentTypeError("must name a folder, got an empty text; the current folder is .")
    return Path(text)


def context(text: str) -> tuple[str, ...]:
    """Names of `Sample`'s fields that a report's question may show, e.g. "indication,prior"."""
    names = tuple(dict.fromkeys(text.split(",")))
    if unknown := [name for name in names if name not in CONTEXT]:
        raise argparse.ArgumentTypeError(f"must be some of {','.join(CONTEXT)}, got {','.join(unknown)}")
    return names


def with_group(text: str) -> re.Pattern[str]:
    """A regular expression with a group that captures the patient."""
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"not a regular expression: {error}") from error
    if pattern.groups < 1:
        raise argparse.ArgumentTypeError("needs a group in round brackets that captures the patient")
    return pattern


def words(text: str) -> tuple[int, int]:
    """Lowest and highest number of words of a trace, e.g. "40,400"."""
    low, _, high = text.partition(",")
    if not 0 < int(low) <= int(high):
        raise argparse.ArgumentTypeError(f"need two numbers low,high with 0 < low <= high, got {text}")
    return int(low), int(high)


_ALTERNATIVES = ("rewards", "splits")  # groups of which one option can be given
_TYPES = (int, float, Path, positive, probability, shares, folder, context, words)
TYPES: Mapping[str, Callable[[str], Any]] = {kind.__name__: kind for kind in _TYPES}


def add_options(
    parser: argparse._ActionsContainer, *groups: str, changed: Mapping[str, Mapping[str, Any]] | None = None
) -> None:
    """Add groups of options of help.yaml, with these arguments of argparse changed."""
    for group in groups:
        place = parser.add_mutually_exclusive_group() if group in _ALTERNATIVES else parser
        for flag, given in HELP[group].items():
            settings = {**given, **(changed or {}).get(flag, {})}
            place.add_argument(flag, **settings | ({"type": TYPES[settings["type"]]} if "type" in settings else {}))
