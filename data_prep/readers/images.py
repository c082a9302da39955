"""Any film as a picture that the model's processor reads directly, with 8 bits a channel.

An 8-bit PNG, JPEG, BMP, TIFF or WebP file stays as it is; `dicom.py` converts DICOM films. A 16-bit PNG holds raw
detector values of 10 to 16 bits, so its own darkest value becomes 0 and its brightest 255. All keep their aspect.

Films whose decoder may crash, and all films with several workers, are converted in a process apart, one per thread: a
crash costs one film, not the run. A process whose parent is gone ends by itself.
"""

import hashlib
import io
import math
import multiprocessing
import os
import resource
import signal
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image, UnidentifiedImageError

from data_prep.readers import dicom
from reward_fns.errors import UsageError

Film = tuple[Path | bytes, int, int]
"""Path of the picture or the bytes of a PNG, width, height."""

_threads = threading.local()
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
_CONVERSION = 1  # to be raised when films come out otherwise than before


class Unreadable(ValueError):
    """A film that cannot be used; the message names the file, what is wrong with it and what to do."""


def size(path: Path) -> tuple[int, int]:
    """Width and height in pixels, from the file's header only; `Unreadable` if it is missing or not a film's."""
    with _named(path):
        if dicom.is_dicom(path):
            return dicom.size(path)
        with _open(path) as image:
            dicom.check_sides(*image.size)
            return image.size


def film(path: Path, store_pixels: int | None = None, *, decode: bool = True) -> Film:
    """The path of an 8-bit picture, else the bytes of an 8-bit PNG; with width and height. Raises `Unreadable`.

    Films with more pixels than `store_pixels` come as bytes too, scaled down with their aspect kept, so that relative
    boxes stay right. Without `decode`, only the header of an 8-bit picture is read: damage behind it is not seen.
    """
    with _named(path):
        fragile = dicom.is_dicom(path) and dicom.crashes_on_damage(path)
    return _film_apart(path, store_pixels) if fragile else _convert(path, store_pixels, decode)


def films(
    paths: Iterable[Path], workers: int = 1, store_pixels: int | None = None, keep: Path | None = None
) -> Iterator[Film | Unreadable]:
    """`film` of each path in the same order, over several processes; an error is yielded in its place, not raised.

    At most two films per process wait to be taken. Converted films become files in `keep`, where the next run finds
    them; `UsageError` if that fails.
    """
    convert = film if workers == 1 else _film_apart

    def work(path: Path) -> Film | Unreadable:
        try:
            return _keep_film(keep, convert, path, store_pixels) if keep else convert(path, store_pixels)
        except Unreadable as error:
            # A new one, because the frames of the old one's traceback would keep this thread's process alive.
            return Unreadable(str(error))

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
        yield from (converted.result() for converted in waiting)
    finally:
        pool.shutdown(cancel_futures=True)


def _keep_film(folder: Path, convert: Callable[[Path, int | None], Film], path: Path, store_pixels: int | None) -> Film:
    """`convert`, its picture kept in the folder for films of the same path, size, time of change and bound."""
    try:
        stat = path.stat()
    except OSError:
        return convert(path, store_pixels)  # which reports what is wrong
    identity = f"{path.absolute()}\0{stat.st_size}\0{stat.st_mtime_ns}\0{store_pixels}\0{_CONVERSION}"
    kept = folder.absolute() / f"{path.stem[:100]}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.png"
    with suppress(OSError, SyntaxError, ValueError), Image.open(kept, formats=("PNG",)) as image:
        width, height = image.size
        image.verify()  # checksums of all parts, up to the end mark
        return kept, width, height
    picture, width, height = convert(path, store_pixels)
    if isinstance(picture, Path):
        return picture, width, height
    unfinished = kept.with_name(f".{kept.name}-{os.getpid()}-{threading.get_ident()}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            unfinished.write_bytes(picture)
            os.replace(unfinished, kept)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        wrong = f"cannot write a film there: {error.strerror}; make room or choose another folder"
        raise UsageError(f"--keep-films {folder}: {wrong}") from error
    return kept, width, height


def _convert(path: Path, store_pixels: int | None, decode: bool = True) -> Film:
    with _named(path):
        if dicom.is_dicom(path):
            return _stored(Image.fromarray(dicom.picture(path)), store_pixels)
        with _open(path) as image:
            dicom.check_sides(*image.size)
            deep = image.mode.startswith(("I", "F"))
            if decode or deep:
                image.load()
            if deep:
                values = np.asarray(image)
                if (shown := dicom.spread(values, values.min(), values.max())) is None:
                    raise ValueError(f"shows nothing: every pixel has the value {values.flat[0]}")
                return _stored(Image.fromarray(shown), store_pixels)
            if store_pixels is None or image.width * image.height <= store_pixels:
                return path, *image.size
            return _stored(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB"), store_pixels)


def _open(path: Path) -> Image.Image:
    try:
        return Image.open(path, formats=_FORMATS)
    except UnidentifiedImageError as error:
        raise ValueError("is neither a DICOM nor a PNG nor a JPEG file (nor BMP, TIFF or WebP)") from error


def _stored(picture: Image.Image, store_pixels: int | None) -> Film:
    """The picture as the bytes of a PNG, scaled down to the bound."""
    shrink = math.sqrt((store_pixels or math.inf) / (picture.width * picture.height))
    if shrink < 1:
        width, height = (max(1, math.floor(side * shrink)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3)
    return png_bytes(picture), picture.width, picture.height


def png_bytes(picture: Image.Image) -> bytes:
    """The picture as a PNG; level 1, because noise hardly compresses: others take several times as long."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn every error within into an `Unreadable` that names the file, in one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # oddities in headers that do not touch the picture
            yield
    except Unreadable:
        raise
    except Exception as error:  # image libraries raise errors of many kinds on damaged files
        detail = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise Unreadable(f"{path}: {detail}") from error


def _film_apart(path: Path, store_pixels: int | None) -> Film:
    """`_convert` in this thread's process apart; a crash is an `Unreadable`, and the next call gets a new process."""
    held = vars(_threads)
    if not held:
        held["process"], held["connection"] = _start()
    process, connection = held["process"], held["connection"]
    try:
        connection.send((_convert, (path, store_pixels)))
        failed, answer = connection.recv()
    except BaseException as error:
        held.clear()  # after an interruption, the answer to this call would be taken as the answer to the next
        if not isinstance(error, EOFError | OSError):
            raise
        process.join()
        code = process.exitcode or 0
        how = signal.strsignal(-code) if code < 0 else f"exit status {code}"
        cause = "it is damaged, fetch it again; or memory ran out"
        raise Unreadable(f"{path} ended the process that decodes it ({how}): {cause}") from error
    try:
        if failed:
            raise answer
        return cast(Film, answer)
    finally:
        del answer  # an exception and the frame that holds it would keep each other, and the process, alive


def _start() -> tuple[SpawnProcess, Connection]:
    # Spawned, because a fork copies other threads' locks; a ProcessPoolExecutor would hide how its process died.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    try:
        ours.recv()
    except EOFError as error:
        cause = "a script of your own needs `if __name__ == '__main__':` around its work"
        raise RuntimeError(f"a process apart did not start; {cause}") from error
    return process, ours


def _serve(connection: Connection) -> None:
    """Answer calls until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to both; the parent says what happens
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # no dump of memory for each damaged film
    connection.send("ready")
    with suppress(EOFError, OSError):  # the parent is gone
        while True:
            function, arguments = connection.recv()
            try:
                answer = False, function(*arguments)
            except Exception as error:
                answer = True, error
            connection.send(answer)
