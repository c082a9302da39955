"""The viewer's page: one HTML file that fetches nothing and takes every text as text."""

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from recipe.cxr_grpo.viewing import pictures, samples
from reward_fns.errors import UsageError
from reward_fns.models.chexbert import OBSERVATIONS

SAMPLES = 5000  # answers on a page


def write_page(
    path: Path, sources: Sequence[Path], data: Sequence[Path] = (), most: int = SAMPLES, seed: int = 0
) -> str:
    """Write the page of runs, dumps and results folders; returns what it shows and what not, in words.

    Args:
        path: the HTML file.
        sources: see `samples.read_sources`.
        data: parquet files for RL with the films that dumps don't name, or folders of such files; the folder ``data``
            of a run, where the quickstart has them, is looked at too.
        most: answers to show, drawn with ``seed`` if there are more.
    """
    found, lower = samples.read_sources(sources)
    shown = samples.drawn(found, most, seed)
    films = pictures.add_films(
        shown, parquet_files([*data, *filter(Path.is_dir, (source / "data" for source in sources))])
    )
    counts = [sum(len(question.answers) for question in questions) for questions in (shown, found)]
    notes = [f"{counts[0]:,} of {counts[1]:,} answers, drawn by sample with seed {seed}" if counts[0] < counts[1]
             else f"all {counts[1]:,} answers"]  # fmt: skip
    notes.append(f"{len(films.stored):,} films of at most {films.side} pixels a side")
    if films.left_out:
        notes.append(f"{films.left_out:,} films left out, because those of a page may take {pictures.BYTES:,} bytes")
    if missing := sum(question.film is None for question in shown):
        notes.append(f"{missing:,} of {len(shown):,} questions without their film, {films.unreadable} unreadable")
    facts = {"notes": notes, "hit": samples.HIT, "lower": sorted(lower), "observations": OBSERVATIONS}
    questions = [asdict(question) for question in shown]
    script, style = text_of("film.js", "page.js"), text_of("film.css", "page.css")
    page = Template(text_of("page.html")).substitute(
        script=script,
        style=style,
        script_hash=allowed(script),
        style_hash=allowed(style),
        data=embedded(facts | {"questions": questions}),
        films=embedded(films.stored),
    )
    path.write_text(page, encoding="utf-8")
    return "; ".join(notes)


def parquet_files(places: Sequence[Path]) -> list[Path]:
    """The parquet files for RL among these files and in these folders; UsageError for one that is not there."""
    files: list[Path] = []
    for place in places:
        if not place.exists():
            raise UsageError(f"--data {place}: no such file or folder")
        files += [place] if place.is_file() else sorted(place.rglob("*.parquet"))
    return [path for path in files if not path.name.startswith("sft_")]


def text_of(*names: str) -> str:
    """The files of this folder, one after the other."""
    return "\n".join((resources.files(__package__) / name).read_text(encoding="utf-8") for name in names)


def allowed(text: str) -> str:
    """A script or style as the source of a content security policy that lets this one run and no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def embedded(data: Any) -> str:
    """Data as JSON in ASCII that can't end the script element that it stands in.

    >>> embedded({"text": "</script><b>"})
    '{"text":"\\\\u003c/script>\\\\u003cb>"}'
    """
    return json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
