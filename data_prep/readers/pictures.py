"""Records with the pictures that they name: found within a folder, read, and listed as a problem where that fails."""

import argparse
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from data_prep.problems import Problems
from data_prep.readers.images import Film, Unreadable, film, films

_Record = TypeVar("_Record")


def within(root: Path, name: str, where: str, problems: Problems) -> Path | None:
    """`root/name`; None, noted as a problem, if that file is missing or the name leads out of the folder."""
    relative = Path(name)
    if relative.is_absolute() or ".." in relative.parts:
        problems.add("unsafe_path", where, f"{name} must stay within {root}; not used")
    elif "\0" in name or not (root / relative).is_file():
        problems.add("missing_image", where, f"{root / relative} is missing; not used")
    else:
        return root / relative
    return None


def headers(records: Iterable[tuple[_Record, Path]], problems: Problems) -> Iterator[tuple[_Record, Film]]:
    """`read`, but 8-bit pictures are not decoded: thousands a second, and damage behind the header is not seen."""
    for record, path in records:
        try:
            yield record, film(path, decode=False)
        except Unreadable as error:
            problems.add("unreadable_image", str(error), "not used")


def read(
    records: Iterable[tuple[_Record, Path | None]], options: argparse.Namespace, problems: Problems
) -> Iterator[tuple[_Record, Film]]:
    """Each record that has a path, with its picture, in the same order; a file that cannot be read is a problem.

    Only a few records are taken ahead of what is yielded; `options` are the group `images` of help.yaml.
    """
    waiting: deque[_Record] = deque()

    def paths() -> Iterator[Path]:
        for record, path in records:
            if path:
                waiting.append(record)
                yield path

    for picture in films(paths(), options.workers, options.store_pixels, options.keep_films):
        record = waiting.popleft()
        if isinstance(picture, Unreadable):
            problems.add("unreadable_image", str(picture), "not used")
        else:
            yield record, picture
