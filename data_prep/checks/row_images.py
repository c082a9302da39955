"""Images as a prepared row names them, opened as verl's reader (qwen_vl_utils) opens them."""

import io
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from data_prep.checks.findings import Seen, digest
from data_prep.writer.dataset import STORED_IMAGE

_DEEP = ("I", "F")  # first letter of Pillow's modes with more than 8 bits
_SCHEME = "file://"

Film = tuple[int, int] | str | None  # sides in pixels, what is wrong with the image, None: not looked at


class BadPicture(ValueError):
    """An image that verl could not read, or would read as something else; the message says what to do."""


def source(entry: Mapping[str, Any]) -> str | bytes:
    """What a row's image is read from: a path, or the bytes of a file; BadPicture if verl would read another."""
    content = entry.get("bytes")
    if content is not None:
        return bytes(content)
    reference = entry.get("image")
    if "bytes" in entry:
        # verl 0.9.1 utils/dataset/rl_dataset.py tests for the key, not for its value.
        raise BadPicture("has a key bytes without bytes, which verl takes for an empty image; leave the key out")
    if not isinstance(reference, str) or not reference:
        raise BadPicture(f"names no file: {reference!r}")
    if "://" in reference and not reference.startswith(_SCHEME):
        raise BadPicture(f"{reference} is not a file; verl would fetch it in every epoch. Store it and name its path")
    path = reference.removeprefix(_SCHEME)
    if not path.startswith("/"):
        raise BadPicture(f"{reference} is a relative path, and verl's workers run in other folders; make it absolute")
    return path


def identity(entry: Mapping[str, Any]) -> bytes:
    """A digest that is the same for every row with this image: of its path, or of its bytes."""
    return digest(entry.get("bytes") or str(entry.get("image")).removeprefix(_SCHEME))


def content(entry: Mapping[str, Any]) -> bytes:
    """`identity`, but a film that a writer stored is the same in every folder: its name there tells its content."""
    path = PurePosixPath(str(entry.get("image")))
    stored = path.parent.name == "images" and STORED_IMAGE.fullmatch(path.name)
    return digest(path.name) if stored and not entry.get("bytes") else identity(entry)


def opened(place: str | bytes) -> Image.Image:
    """The image, not decoded yet; BadPicture if it is missing or no image."""
    try:
        return Image.open(io.BytesIO(place) if isinstance(place, bytes) else place)
    except FileNotFoundError as error:
        raise BadPicture(f"{place!r} does not exist; was it moved after the data were prepared?") from error
    except Exception as error:  # Pillow's readers raise whatever a broken header leads them to
        raise BadPicture(f"{_name(place)} is not an image that can be read: {error}") from error


def inspect(place: str | bytes, *, decode: bool) -> tuple[int, int]:
    """Width and height in pixels of an image; BadPicture if verl could not read it. `decode` reads it to its end."""
    with opened(place) as image:
        if image.mode.startswith(_DEEP):
            raise BadPicture(
                f"{_name(place)} has more than 8 bits a pixel (mode {image.mode}), which verl would clip to white; "
                "scale it to 8 bits"
            )
        width, height = image.size
        if max(width, height) > 200 * min(width, height):
            raise BadPicture(f"{_name(place)} is {width} x {height}: Qwen's processor refuses an aspect over 200")
        if decode:
            image.draft("L", (width // 8, height // 8))  # every byte of a JPEG is read, an eighth of it is computed
            try:
                image.load()
            except Exception as error:
                raise BadPicture(f"{_name(place)} breaks off or is damaged: {error}") from error
        return width, height


def thumbnail(place: str | bytes, side: int) -> Image.Image:
    """The image in RGB, scaled down to fit a square of this side in pixels. Raises as `opened`."""
    with opened(place) as image:
        image.draft("RGB", (side, side))
        try:
            small = image.convert("RGB")
        except Exception as error:
            raise BadPicture(f"{_name(place)} breaks off or is damaged: {error}") from error
    small.thumbnail((side, side))
    return small


class Films:
    """Inspects the images of rows, several at a time and each once; `how` is "decode", "header" or "skip"."""

    def __init__(self, seen: Seen, how: str) -> None:
        self._seen, self._how = seen, how
        self._pool = ThreadPoolExecutor(thread_name_prefix="film")  # Pillow decodes without holding Python's lock

    def look_at(self, entries: Iterable[Mapping[str, Any]]) -> dict[bytes, Film]:
        """The result for each of these images, by `identity`."""
        wanted = {identity(entry): entry for entry in entries}
        films: dict[bytes, Film] = {}
        for key in wanted:
            if (note := self._seen.note("film", key)) is not None:
                film = json.loads(note)
                films[key] = tuple(film) if isinstance(film, list) else film
        new = [key for key in wanted if key not in films]
        for key, film in zip(new, self._pool.map(self._inspect, map(wanted.__getitem__, new)), strict=True):
            films[key] = film
            self._seen.first("film", key, json.dumps(film))
        return films

    def _inspect(self, entry: Mapping[str, Any]) -> Film:
        try:
            place = source(entry)
            return None if self._how == "skip" else inspect(place, decode=self._how == "decode")
        except BadPicture as error:
            return str(error)


def _name(place: str | bytes) -> str:
    return "the embedded image" if isinstance(place, bytes) else str(Path(place))
