"""The images of a validation: each is looked at once, several at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from data_prep.checks import row_images
from data_prep.checks.seen import Seen

Film = tuple[int, int] | str | None
"""Width and height in pixels, or what is wrong with the image, or None if it was not looked at."""


class Films:
    """Looks at images, and remembers what it saw.

    Args:
        seen: where it remembers.
        how: "decode" reads an image to its end, "header" its header only, "skip" nothing.
    """

    def __init__(self, seen: Seen, how: str) -> None:
        self._seen, self._how = seen, how
        self._pool = ThreadPoolExecutor(thread_name_prefix="film")  # Pillow decodes without holding Python's lock

    key = staticmethod(row_images.identity)

    def place(self, entry: Mapping[str, Any]) -> str | bytes:
        """Where an image is read from, "" if it has no place."""
        try:
            return row_images.source(entry)
        except row_images.BadPicture:
            return ""

    def look_at(self, entries: Iterable[Mapping[str, Any]]) -> dict[bytes, Film]:
        """What there is to know of each of these images, by `key`."""
        wanted = {self.key(entry): entry for entry in entries}
        known = {key: _read(note) for key in wanted if (note := self._seen.note("film", key)) is not None}
        new = [(key, entry) for key, entry in wanted.items() if key not in known]
        for (key, _), film in zip(new, self._pool.map(self._look, (entry for _, entry in new)), strict=True):
            known[key] = film
            self._seen.set("film", key, film if isinstance(film, str) else " ".join(map(str, film or ())))
        return known

    def _look(self, entry: Mapping[str, Any]) -> Film:
        try:
            place = row_images.source(entry)
            return None if self._how == "skip" else row_images.inspect(place, decode=self._how == "decode")
        except row_images.BadPicture as error:
            return str(error)


def _read(note: str) -> Film:
    numbers = note.split(" ") if note else []
    if not numbers:
        return None
    return (int(numbers[0]), int(numbers[1])) if len(numbers) == 2 and note.replace(" ", "").isdigit() else note
