"""Pictures for records that only name them: found within a folder, read, and noted where that fails."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from PIL import Image

from data_prep.images import Film, Unreadable, film
from data_prep.problems import Problems

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


def by_header(path: Path) -> Film:
    """`images.film`, but an 8-bit PNG or JPEG is not decoded: thousands a second, and damage further on is not seen."""
    errors = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
    with suppress(*errors), Image.open(path, formats=("PNG", "JPEG")) as image:
        if not image.mode.startswith(("I", "F")):
            return path, *image.size
    return film(path)


def read(
    records: Iterable[tuple[_Record, Path]],
    problems: Problems,
    workers: int = 1,
    how: Callable[[Path], Film] = film,
) -> Iterator[tuple[_Record, Film]]:
    """Each record with its picture, in the same order; those whose file cannot be read become problems.

    Args:
        records: with the path of the image file of each.
        problems: is told of unreadable images.
        workers: threads that read; libraries decode images without holding up other threads. Twice as many
            pictures may wait to be taken, so memory stays flat however many records there are.
        how: reads one.
    """
    waiting: deque[tuple[_Record, Future[Film]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for record, path in records:
                waiting.append((record, pool.submit(how, path)))
                if len(waiting) > 2 * workers:
                    yield from _taken(*waiting.popleft(), problems)
            while waiting:
                yield from _taken(*waiting.popleft(), problems)
        finally:
            pool.shutdown(cancel_futures=True)


def _taken(record: _Record, picture: Future[Film], problems: Problems) -> Iterator[tuple[_Record, Film]]:
    try:
        yield record, picture.result()
    except Unreadable as error:
        problems.add("unreadable_image", str(error), "get the file again; not used")
