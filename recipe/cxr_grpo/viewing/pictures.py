"""Films as small pictures inside a page, each stored once."""

import base64
import hashlib
import io
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from data_prep.writer.staging import parquet_rows
from recipe.cxr_grpo.results.validation import OWN
from recipe.cxr_grpo.viewing.samples import Question

LARGEST, SMALLEST = 640, 192  # pixels of a film's longer side
PIXELS = 300_000_000  # of all films of a page together, which decides between these two
BYTES = 100_000_000  # of all films of a page; those beyond are left out
QUALITY = 80  # of JPEG


class Pictures:
    """Films as JPEG data for a page that shows at most so many: ``stored`` has their data, width, height and name.

    ``side`` is the most pixels of a side; ``unreadable`` and ``left_out`` count films that are not in the page.
    """

    def __init__(self, films: int) -> None:
        self.side = int(min(LARGEST, max(SMALLEST, math.sqrt(PIXELS / max(films, 1)))))
        self.stored: list[dict[str, Any]] = []
        self.unreadable = self.left_out = self.size = 0
        self._places: dict[str | bytes, int | None] = {}

    def add(self, film: str | bytes) -> int | None:
        """The place of a film in ``stored``, given as the path of its file or the file's content; None without it."""
        key = hashlib.sha256(film).digest() if isinstance(film, bytes) else film.removeprefix("file://")
        if key not in self._places:
            self._places[key] = self._store(io.BytesIO(film) if isinstance(film, bytes) else Path(str(key)))
        return self._places[key]

    def _store(self, file: Path | io.BytesIO) -> int | None:
        if self.size > BYTES:
            self.left_out += 1
            return None
        jpeg = io.BytesIO()
        try:
            with Image.open(file) as picture:
                picture.draft("L", (self.side, self.side))  # a large JPEG is decoded at a part of its size
                small = picture.convert("L")
            small.thumbnail((self.side, self.side))
            small.save(jpeg, "JPEG", quality=QUALITY)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # what Pillow raises on damaged files
            self.unreadable += 1
            return None
        data = base64.b64encode(jpeg.getvalue()).decode()
        self.size += len(data)
        name = file.name if isinstance(file, Path) else ""
        self.stored.append({"data": data, "width": small.width, "height": small.height, "name": name})
        return len(self.stored) - 1


def add_films(questions: Sequence[Question], data: Iterable[Path]) -> Pictures:
    """The pictures of questions, whose ``film`` is set; where a dump names no file, from parquet files for RL."""
    wanted = {(question.id, question.films) for question in questions}
    pictures = Pictures(len(wanted))
    of_data: dict[tuple[str, str], int | None] = {}
    for path in data:
        for row in tqdm(parquet_rows(path), desc=path.name, unit="row", disable=None):
            truth = json.loads(row["reward_model"]["ground_truth"])
            key = truth["id"], truth.get("films", OWN)
            if key in wanted and key not in of_data and row["images"]:
                first = row["images"][0]
                of_data[key] = pictures.add(first.get("bytes") or first["image"])
    for question in questions:
        place = of_data.get((question.id, question.films))
        question.film = pictures.add(question.image) if question.image else place
    return pictures
