"""Converted films on disk: what a stopped run converted, the next one finds."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

from PIL import Image

Film = tuple[Path | bytes, int, int]
"""Path of the picture or the bytes of a PNG, width, height."""

_CONVERSION = 1  # to be raised when films come out otherwise than before


def kept(folder: Path, convert: Callable[[Path, int | None], Film], path: Path, store_pixels: int | None) -> Film:
    """`convert(path, store_pixels)`, with the picture as a file in the folder if it is not the film's own.

    A file is only found again for a film of the same path, size and time of change, and the same bound.

    Args:
        folder: where the pictures lie, made if needed; a file is there whole or not at all.
        convert: see `images.film`; called if the film was not converted before.
        path: of the film.
        store_pixels: see `images.film`.
    """
    try:
        stat = path.stat()
    except OSError:
        return convert(path, store_pixels)  # which says what is wrong with it
    told = f"{path.absolute()}\0{stat.st_size}\0{stat.st_mtime_ns}\0{store_pixels}\0{_CONVERSION}"
    place = folder.absolute() / f"{path.stem[:100]}-{hashlib.sha256(told.encode()).hexdigest()[:16]}.png"
    if place.exists():
        with Image.open(place) as image:
            return place, *image.size
    picture, width, height = convert(path, store_pixels)
    if isinstance(picture, Path):
        return picture, width, height
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = place.with_name(f".{place.name}-{os.getpid()}-{threading.get_ident()}")
    try:
        unfinished.write_bytes(picture)
        os.replace(unfinished, place)
    finally:
        unfinished.unlink(missing_ok=True)
    return place, width, height
