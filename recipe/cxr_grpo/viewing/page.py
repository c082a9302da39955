"""The viewer's page: one HTML file that fetches nothing and takes every text as text."""

import base64
import hashlib
import io
import json
import math
from collections.abc import Collection, Iterator, Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from PIL import Image
from tqdm import tqdm

from data_prep.checks.validate import parquet_files
from data_prep.writer.staging import parquet_rows
from recipe.cxr_grpo.results.validation import OWN
from recipe.cxr_grpo.viewing import samples
from reward_fns.models.chexbert import OBSERVATIONS

SAMPLES = 5000  # answers on a page
THUMBNAIL = 96  # pixels of the longer side of a film in the list, where a large one would be decoded too slowly
LARGEST = 640  # pixels of a film's longer side
PIXELS = 300_000_000  # of all films of a page together: many are smaller


def write_page(path: Path, sources: Sequence[Path], data: Sequence[Path], most: int = SAMPLES, seed: int = 0) -> str:
    """Write the page of runs, dumps and results folders; returns what it shows and what not, in words.

    ``data`` has parquet files for RL, or folders of them, with the films that dumps don't name. More than ``most``
    answers are drawn with ``seed``. UsageError: as `samples.read_sources`, or data that is not there.
    """
    found, lower = samples.read_sources(sources)
    shown = samples.drawn(found, most, seed)
    wanted = {(question["id"], question["films"]) for question in shown}
    named = {question["image"] for question in shown} - {None}
    films = Films(len({*map(_identity, named), *(_identity(film) for _, film in _films(data, wanted))}))
    of_data = {key: films.add(film) for key, film in _films(data, wanted)}
    for question in shown:
        of_question = of_data.get((question["id"], question["films"]))
        question["film"] = films.add(question["image"]) if question["image"] else of_question
    count, of = (sum(len(question["answers"]) for question in questions) for questions in (shown, found))
    notes = [f"{count:,} of {of:,} answers, drawn by sample with seed {seed}" if count < of else f"all {of:,} answers"]
    notes.append(f"{len(films.stored):,} films of at most {films.side} pixels a side")
    if missing := sum(question["film"] is None for question in shown):
        notes.append(f"{missing:,} of {len(shown):,} questions without their film")
    facts = {"notes": "; ".join(notes), "hit": samples.HIT, "lower": sorted(lower), "observations": OBSERVATIONS}
    script, style = text_of("film.js", "answers.js", "page.js"), text_of("film.css", "page.css")
    parts = {"script": script, "style": style, "script_hash": allowed(script), "style_hash": allowed(style)}
    parts |= {"data": embedded(facts | {"questions": shown}), "films": embedded(films.stored)}
    path.touch(0o600)  # it has text of reports
    path.write_text(Template(text_of("page.html")).substitute(parts), encoding="utf-8")
    return "; ".join(notes)


def _films(data: Sequence[Path], wanted: Collection[tuple[str, str]]) -> Iterator[tuple[tuple[str, str], str | bytes]]:
    """Sample and films (own or a control), and the first film, of the rows of prepared data that are wanted."""
    for file in (file for place in data for file in parquet_files(place) if not file.name.startswith("sft_")):
        for row in tqdm(parquet_rows(file), desc=file.name, unit="row", disable=None):
            truth = json.loads(row["reward_model"]["ground_truth"])
            key = truth["id"], truth.get("films", OWN)
            if key in wanted and row["images"]:
                yield key, row["images"][0].get("bytes") or row["images"][0]["image"]


def _identity(film: str | bytes) -> str | bytes:
    return hashlib.sha256(film).digest() if isinstance(film, bytes) else film.removeprefix("file://")


class Films:
    """At most so many films of a page, each once in ``stored``, as JPEG with sides of at most ``side`` pixels."""

    def __init__(self, count: int) -> None:
        self.side = int(min(LARGEST, math.sqrt(PIXELS / max(count, 1))))
        self.stored: list[dict[str, Any]] = []
        self._places: dict[str | bytes, int | None] = {}

    def add(self, film: str | bytes) -> int | None:
        """The place of a film in ``stored``, given as its file's path or content; None if it can't be read."""
        key = _identity(film)
        if key not in self._places:
            self._places[key] = None
            jpegs: dict[str, Any] = {}
            try:
                with Image.open(io.BytesIO(film) if isinstance(film, bytes) else str(key)) as picture:
                    picture.draft("L", (self.side, self.side))  # a large JPEG is decoded at a part of its size
                    gray = picture.convert("L")
                for name, side in {"data": self.side, "small": THUMBNAIL}.items():
                    gray.thumbnail((side, side))
                    gray.save(jpeg := io.BytesIO(), "JPEG", quality=80)
                    jpegs[name] = base64.b64encode(jpeg.getvalue()).decode()
                    jpegs |= {"width": gray.width, "height": gray.height} if name == "data" else {}
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # Pillow's, for damaged files
                return None
            self._places[key] = len(self.stored)
            self.stored.append(jpegs | {"name": "" if isinstance(key, bytes) else Path(key).name})
        return self._places[key]


def text_of(*names: str) -> str:
    """The files of this folder, one after the other."""
    return "\n".join((resources.files(__package__) / name).read_text(encoding="utf-8") for name in names)


def allowed(text: str) -> str:
    """A script or style as the source of a content security policy that lets this one run and no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def embedded(data: Any) -> str:
    """Data as JSON in ASCII that can't end the script element that it stands in."""
    return json.dumps(data, allow_nan=False).replace("<", "\\u003c")
