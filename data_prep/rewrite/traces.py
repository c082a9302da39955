"""`python -m data_prep traces`: reasoning by a teacher model before the answers of SFT files; see help.yaml."""

import argparse
import base64
import io
import json
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from data_prep.checks import row as checks
from data_prep.checks import row_images
from data_prep.checks.validate import parquet_files
from data_prep.options import add_options
from data_prep.rewrite import asking
from data_prep.rewrite.rules import phrase
from data_prep.sample import stable_hash
from data_prep.writer.dataset import earlier_tables
from data_prep.writer.staging import parquet_rows, read_schema, rewrite, staged
from reward_fns.errors import UsageError
from reward_fns.judge.client import Judge

_GIVEN_AWAY = phrase("given_away")
_OPEN, _CLOSE = "<think>", "</think>"
_PIXELS_PER_TOKEN = 28 * 28  # of Qwen2.5-VL; those of Qwen3-VL are larger


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, "traces")
    asking.add_arguments(parser, required=True, max_tokens=2048)


def run(options: argparse.Namespace) -> int:
    """Run the command; returns its exit status."""
    model = asking.server(options)
    paths = [path for given in options.paths for path in parquet_files(given) if checks.is_sft(read_schema(path))]
    if not paths:
        raise UsageError(f"no SFT file in {', '.join(map(str, options.paths))}; they have a column messages")
    asking.check_targets(paths, options.out)
    plan = _Plan(model, options, asking.template("trace"))
    with asking.answered(options, model, lambda: plan.questions(paths)) as result:
        return _write(plan, paths, result[0]) if result else 0


def check(answer: str, reference: str, low: int, high: int) -> str:
    """The trace, of `low` to `high` words, of a teacher's answer, without its tags.

    Unusable: wrong form or length, another answer than the reference behind it, or a mention of the reference.

    >>> check("<think>The left base is dense.</think> [0.5, 0.6, 0.7, 0.8]", "[0.5, 0.6, 0.7, 0.8]", 3, 9)
    'The left base is dense.'
    """
    text = answer.strip()
    if not text.startswith(_OPEN) or text.count(_OPEN) != 1 or text.count(_CLOSE) != 1:
        raise asking.Unusable(f"is not one <think>...</think> and an answer: {text[:100]!r}")
    trace, _, final = text.removeprefix(_OPEN).partition(_CLOSE)
    trace = trace.strip()
    if final.strip() != reference.strip():
        raise asking.Unusable(f"changes the answer {reference.strip()[:100]!r} to {final.strip()[:100]!r}")
    length = len(trace.split())
    if not low <= length <= high:
        raise asking.Unusable(f"has a trace of {length} words, need {low} to {high}")
    if "<image>" in trace:
        raise asking.Unusable("has <image> in its trace, which verl would take for an image")
    if mention := _GIVEN_AWAY.search(trace):
        raise asking.Unusable(f"mentions what it was given: {mention[0]!r}")
    return trace


class _Plan(NamedTuple):
    """Which rows get a trace, and what the teacher is asked for each."""

    model: Judge
    options: argparse.Namespace
    prompt: str

    def traced(self, row: dict[str, Any]) -> bool:
        """Whether a row gets a trace: if it asks one question about one image, and the seed chooses it."""
        turns, images = row["messages"], row["images"] or []
        if len(turns) != 2 or len(images) != 1 or turns[0]["content"].count("<image>") != 1:
            return False
        # By the image's name, not its path: a copy of the data elsewhere is divided in the same way.
        embedded = images[0].get("bytes") is not None
        name = row_images.identity(images[0]).hex() if embedded else Path(str(images[0]["image"])).name
        drawn = stable_hash(f"{self.options.seed}/{turns[0]['content']}/{name}")
        return drawn / 2**64 >= self.options.direct_share

    def key(self, row: dict[str, Any]) -> str:
        """The journal's key of a row's trace."""
        question, answer = (turn["content"] for turn in row["messages"])
        image = row_images.identity(row["images"][0]).hex()
        settings = [*map(str, self.options.words), str(self.options.temperature)]
        return asking.key_of(self.model, self.prompt, question, answer, image, *settings)

    def questions(self, paths: list[Path]) -> Iterator[asking.Question]:
        """The questions, row by row."""
        low, high = self.options.words
        for path in paths:
            for number, row in enumerate(parquet_rows(path)):
                if not self.traced(row):
                    continue
                question, answer = (turn["content"].replace("<image>", "").strip() for turn in row["messages"])
                entry = row["images"][0]
                text = asking.fill(self.prompt, question=question, answer=answer, low=str(low), high=str(high))
                pixels = entry.get("max_pixels") or 0
                yield asking.Question(
                    self.key(row),
                    f"{path} row {number}",
                    len(text) // asking.CHARACTERS_PER_TOKEN + pixels // _PIXELS_PER_TOKEN,
                    high * 4 // 3,
                    partial(_message, text, entry),
                    partial(check, reference=answer, low=low, high=high),
                )


def _message(text: str, entry: dict[str, Any]) -> asking.Message:
    try:
        with row_images.opened(row_images.source(entry)) as image:
            film = image.convert("RGB")
    except (row_images.BadPicture, OSError, ValueError) as error:
        raise asking.Unusable(f"no image to show: {error}") from error
    if (most := entry.get("max_pixels")) and film.width * film.height > most:
        scale = (most / (film.width * film.height)) ** 0.5
        film = film.resize([max(1, int(side * scale)) for side in film.size], Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    film.save(buffer, "JPEG", quality=95)
    url = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]


def _write(plan: _Plan, paths: list[Path], journal: asking.Journal) -> int:
    options = plan.options
    counts: Counter[str] = Counter(traced=0, direct=0, failed=0)

    def new_row(_: int, row: dict[str, Any]) -> dict[str, Any]:
        trace = journal.answer(plan.key(row)) if (chosen := plan.traced(row)) else None
        counts["traced" if trace is not None else "failed" if chosen else "direct"] += 1
        if trace is not None:
            question, answer = row["messages"]
            question["content"] += options.suffix
            answer["content"] = f"{_OPEN}\n{trace}\n{_CLOSE}\n\n{answer['content']}"
        return row

    with staged(options.out, earlier_tables, private=True) as folder:
        for path in paths:
            print(f"{options.out / path.name}: {rewrite(path, folder / path.name, new_row)} rows")
        summary = {
            **asking.origin(plan.model, plan.prompt),
            **{name: getattr(options, name) for name in ("temperature", "words", "direct_share", "seed", "suffix")},
            **counts,
        }
        (folder / "traces.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    print(f"{counts['traced']} rows with a trace, {counts['direct']} direct, {counts['failed']} direct after a failure")
    return 0
