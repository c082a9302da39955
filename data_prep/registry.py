"""Where data sets register: one module of this package per set, found by itself."""

import argparse
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from data_prep import sets
from data_prep.problems import Problems
from data_prep.sample import Sample

Loader = Callable[[argparse.Namespace, Problems], Iterable[Sample]]


@dataclass(frozen=True)
class DataSet:
    """A registered data set; see `data_set` for what each field holds."""

    name: str
    summary: str
    example: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    load: Loader
    expected: Mapping[str, int]
    context: Sequence[str]


_registered: dict[str, DataSet] = {}


def data_set(
    name: str,
    *,
    summary: str,
    example: str,
    arguments: Callable[[argparse.ArgumentParser], None],
    expected: Mapping[str, int] | None = None,
    context: Sequence[str] = (),
) -> Callable[[Loader], Loader]:
    """Register the decorated function as the loader of a data set.

    Args:
        name: as typed after `python -m data_prep`.
        summary: one line for `list`.
        example: a command line for `--help`.
        arguments: adds the set's own options to its parser.
        expected: how much of what the published set has. The loader counts the same with `Problems.count`, and a
            run over everything warns of each difference.
        context: what the set can put into a report's question: any of "indication", "prior" and "lateral", the fields
            of `Sample`. The loader fills those in `options.context`, a tuple of these names, and leaves the others.

    The loader gets the parsed options and a `Problems` to report defects to, and yields samples one by one.
    """

    def register(load: Loader) -> Loader:
        if name in _registered:
            raise ValueError(f"two data sets are called {name!r}: {_registered[name].load} and {load}")
        _registered[name] = DataSet(name, summary, example, arguments, load, expected or {}, tuple(context))
        return load

    return register


def data_sets() -> dict[str, DataSet]:
    """All data sets by name; imports every module of this package once."""
    for module in pkgutil.iter_modules(sets.__path__):
        if not module.name.startswith("__"):
            importlib.import_module(f"{sets.__name__}.{module.name}")
    return dict(sorted(_registered.items()))
