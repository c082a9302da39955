"""Any film as a picture that the model's processor reads directly: 8 bits a channel, PNG or JPEG.

An 8-bit PNG or JPEG stays the file it is. A DICOM film is converted by `dicom.py`. A 16-bit PNG has no
window to go by, so its own darkest value becomes 0 and its brightest 255: such files hold raw detector values of 10 to
16 bits, and dropping the lower byte, as image readers do, would leave many of them black. All keep their aspect.
"""

from __future__ import annotations

import argparse
import io
import math
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from data_prep.options import positive
from data_prep.readers import dicom
from data_prep.readers.apart import ProcessDied, apart
from data_prep.readers.kept import Film, kept


class Unreadable(ValueError):
    """A film that cannot be used; the message names the file, what is wrong with it and what to do."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of every set whose films are converted."""
    parser.add_argument("--workers", type=positive, default=1, help="processes that convert films")
    parser.add_argument(
        "--store-pixels",
        type=positive,
        help="store films of more pixels than this scaled down to it, e.g. 1048576, instead of whole",
    )
    parser.add_argument(
        "--keep-films", type=Path, metavar="DIR", help="keep converted films there: a stopped run goes on where it was"
    )


def size(path: Path) -> tuple[int, int]:
    """Width and height in pixels, from the file's header only.

    Raises:
        Unreadable: the file is missing, or its header is not that of a film.
    """
    with _named(path):
        if dicom.is_dicom(path):
            return dicom.size(path)
        with _open(path) as image:
            return image.size


def film(path: Path, store_pixels: int | None = None) -> Film:
    """A film that was read whole once: the path itself if it is an 8-bit PNG or JPEG, else the bytes of an 8-bit PNG.

    Args:
        path: a DICOM, PNG or JPEG file.
        store_pixels: films with more pixels than this come as bytes too, scaled down to it with their aspect kept, so
            that relative boxes stay right.

    Returns:
        path or bytes, and width and height of that picture.

    Raises:
        Unreadable: the file is missing, damaged, no film, or too large to be one.
    """
    with _named(path):
        fragile = dicom.is_dicom(path) and dicom.crashes_on_damage(path)
    return (_film_apart if fragile else _convert)(path, store_pixels)


def films(
    paths: Iterable[Path], workers: int = 1, store_pixels: int | None = None, keep: Path | None = None
) -> Iterator[Film | Unreadable]:
    """`film` of each path in the same order, over several processes; an error is yielded in its place, not raised.

    At most two films per process wait to be taken, so memory stays flat however many paths there are. Converted films
    are kept in the folder `keep`, where the next run finds them, and are that file's path then.
    """
    convert = film if workers == 1 else _film_apart
    work = partial(_attempt, partial(kept, keep, convert) if keep else convert, store_pixels=store_pixels)
    if workers == 1:
        yield from map(work, paths)
        return
    pool = ThreadPoolExecutor(workers)
    waiting: deque[Future[Film | Unreadable]] = deque()
    try:
        for path in paths:
            waiting.append(pool.submit(work, path))
            if len(waiting) == 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _attempt(convert: Callable[[Path, int | None], Film], path: Path, store_pixels: int | None) -> Film | Unreadable:
    try:
        return convert(path, store_pixels)
    except Unreadable as error:
        # Anew, because the frames of its traceback would keep this thread's process from ending with it.
        return Unreadable(str(error))


def _film_apart(path: Path, store_pixels: int | None) -> Film:
    try:
        return apart(_convert, path, store_pixels)
    except ProcessDied as error:
        raise Unreadable(
            f"{path} ended the process that decodes it ({error}): it is damaged, fetch it again; or memory ran out"
        ) from error


def _convert(path: Path, store_pixels: int | None) -> Film:
    with _named(path):
        if dicom.is_dicom(path):
            return _stored(Image.fromarray(dicom.picture(path)), store_pixels)
        with _open(path) as image:
            image.load()
            width, height = image.size
            if image.mode.startswith(("I", "F")):
                return _stored(_eight_bits(image), store_pixels)
            if store_pixels is None or width * height <= store_pixels:
                return path, width, height
            return _stored(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB"), store_pixels)


def _open(path: Path) -> Image.Image:
    try:
        image = Image.open(path, formats=("PNG", "JPEG"))
    except UnidentifiedImageError as error:
        raise ValueError("is neither a DICOM nor a PNG nor a JPEG file") from error
    width, height = image.size
    if width * height > dicom.MAX_PIXELS:
        image.close()
        raise ValueError(f"claims {width} x {height} pixels, more than any film ({dicom.MAX_PIXELS:,}); not decoded")
    return image


def _eight_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    spread = dicom.spread(values, values.min(), values.max())
    if spread is None:
        raise ValueError(f"shows nothing: every pixel has the value {values.flat[0]}")
    return Image.fromarray(spread)


def _stored(picture: Image.Image, store_pixels: int | None) -> Film:
    """The picture as the bytes of a PNG, scaled down to the bound."""
    shrink = math.sqrt((store_pixels or math.inf) / (picture.width * picture.height))
    if shrink < 1:
        width, height = (max(1, math.floor(side * shrink)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3)
    buffer = io.BytesIO()
    # The noise of a detector hardly compresses: a higher level takes several times as long for a few per cent.
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue(), picture.width, picture.height


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Whatever goes wrong within becomes an `Unreadable` that names the file, in one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # oddities in headers that do not touch the picture
            yield
    except Unreadable:
        raise
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror or error}") from error
    except Exception as error:  # libraries that read foreign files raise whatever they come across
        raise Unreadable(f"{path}: {' '.join(str(error).split())}") from error
