"""Pictures for records that only name them: found within a folder, read, and noted where that fails."""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from PIL import Image

from data_prep.problems import Problems
from data_prep.readers.images import Film, Unreadable, film, films

_Record = TypeVar("_Record")


def within(root: Path, name: str, where: str, problems: Problems) -> Path | None:
    """`root/name`; None, a problem of `where`, if there is no such file or the name leads out of the folder."""
    relative = Path(name)
    if relative.is_absolute() or ".." in relative.parts:
        problems.add("unsafe_path", where, f"{name} must stay within {root}; not used")
    elif "\0" in name or not (root / relative).is_file():
        problems.add("missing_image", where, f"there is no file {root / relative}; not used")
    else:
        return root / relative
    return None


def headers(records: Iterable[tuple[_Record, Path]], problems: Problems) -> Iterator[tuple[_Record, Film]]:
    """`read`, but 8-bit PNG and JPEG files are not decoded: thousands a second, and damage further on is not seen."""
    for record, path in records:
        try:
            yield record, _by_header(path)
        except Unreadable as error:
            problems.add("unreadable_image", str(error), "get the file again; not used")


def _by_header(path: Path) -> Film:
    errors = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
    with suppress(*errors), Image.open(path, formats=("PNG", "JPEG")) as image:
        if not image.mode.startswith(("I", "F")):
            return path, *image.size
    return film(path)


def read(
    records: Iterable[tuple[_Record, Path]], options: argparse.Namespace, problems: Problems
) -> Iterator[tuple[_Record, Film]]:
    """Each record with its picture, in the same order; those whose file cannot be read become problems.

    Args:
        records: with the path of the image file of each; read ahead of what is yielded by a few only.
        options: with those of `images.add_arguments`.
        problems: is told of unreadable images.
    """
    waiting: deque[_Record] = deque()

    def paths() -> Iterator[Path]:
        for record, path in records:
            waiting.append(record)
            yield path

    for found in films(paths(), options.workers, options.store_pixels, options.keep_films):
        record = waiting.popleft()
        if isinstance(found, Unreadable):
            problems.add("unreadable_image", str(found), "get the file again; not used")
        else:
            yield record, found
