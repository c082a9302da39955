"""A contact sheet: some rows of a data set as they are, with boxes drawn, for the eye to judge."""

import contextlib
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageDraw, ImageFont

from data_prep.checks.row_images import BadPicture, source, thumbnail
from reward_fns.ground_truth import Defect, box_defects, is_quad

_SIDE, _TEXT, _MARGIN, _COLUMNS, _LINES = 300, 13, 8, 4, 5
_LINE = _TEXT + 3  # from one line of text to the next
_Font = ImageFont.ImageFont | ImageFont.FreeTypeFont
_Boxes = Sequence[tuple[tuple[float, ...], str, bool]]  # corners in shares of the image, label, whether it is sound
_COLORS = ("#ffd23f", "#3bceac", "#ee4266", "#5aa9e6", "#f78c6b", "#c3a6ff")
_PAGE, _INK, _BAD = "#15171c", "#e6e8eb", "#ff4d4d"


class Tile(NamedTuple):
    """One row on the sheet: its image, title and text, and what is wrong with it, "" if nothing."""

    place: str | bytes
    boxes: _Boxes
    title: str
    text: str
    defect: str = ""


def tile_of_row(row: Mapping[str, Any], info: Mapping[str, Any], defects: Sequence[Defect], stem: str) -> Tile:
    """A row for the sheet, with unsound boxes as far as they can be drawn; `stem` names a row without an id."""
    stored: Any = {}
    with contextlib.suppress(ValueError, TypeError, RecursionError):
        stored = json.loads(str((row.get("reward_model") or {}).get("ground_truth")))
    stored = stored if isinstance(stored, dict) else {}
    boxes, labels = (stored[key] if isinstance(stored.get(key), list) else [] for key in ("boxes", "labels"))
    drawn = [
        (tuple(map(float, box)), str(labels[i]) if i < len(labels) else "", not list(box_defects(box)))
        for i, box in enumerate(boxes)
        if is_quad(box)
    ]
    try:
        place = source(row["images"][0])
    except BadPicture:
        place = ""
    turns = row["prompt"] if "prompt" in row else row["messages"]
    texts = [str(turn["content"]).replace("<image>", "").strip() for turn in turns]
    texts += [str(stored["report"])] if stored.get("report") else []
    title = f"{info.get('split') or stem}  {info.get('id') or 'SFT'}"
    return Tile(place, drawn, title, " / ".join(texts), defects[0].kind if defects else "")


class Sheet:
    """Collects a fair sample of any number of rows, of which those with a defect get at most half the places.

    Sound SFT rows are drawn only without sound RL rows, which ask the same about the same films and have boxes.
    """

    def __init__(self, size: int = 24, seed: int = 0) -> None:
        self._random = random.Random(seed)
        self._size = size
        self._seen: Counter[str] = Counter()
        self._tiles: dict[str, list[Tile]] = {"flawed": [], "RL": [], "SFT": []}

    def offer(self, tile: Tile, *, sft: bool) -> None:
        """Take this row onto the sheet with the same chance as every other of its kind (reservoir sampling)."""
        kind = "flawed" if tile.defect else "SFT" if sft else "RL"
        size, tiles = self._size // 2 if tile.defect else self._size, self._tiles[kind]
        self._seen[kind] += 1
        if len(tiles) < size:
            tiles.append(tile)
        elif (place := self._random.randrange(self._seen[kind])) < size:
            tiles[place] = tile

    def write(self, path: Path) -> int:
        """Draw the sheet as a PNG; returns the number of rows on it, 0 if there was none and so no file."""
        tiles = (self._tiles["flawed"] + (self._tiles["RL"] or self._tiles["SFT"]))[: self._size]
        if not tiles:
            return 0
        font = ImageFont.load_default(_TEXT)
        height = _SIDE + _LINES * _LINE + _MARGIN
        columns, rows = min(_COLUMNS, len(tiles)), -(-len(tiles) // _COLUMNS)
        page = Image.new("RGB", (columns * (_SIDE + _MARGIN) + _MARGIN, rows * (height + _MARGIN) + _MARGIN), _PAGE)
        for i, tile in enumerate(tiles):
            corner = (_MARGIN + i % _COLUMNS * (_SIDE + _MARGIN), _MARGIN + i // _COLUMNS * (height + _MARGIN))
            page.paste(_drawn(tile, height, font), corner)
        path.parent.mkdir(parents=True, exist_ok=True)
        page.save(path, "PNG")
        return len(tiles)


def _drawn(tile: Tile, height: int, font: _Font) -> Image.Image:
    card = Image.new("RGB", (_SIDE, height), _PAGE)
    draw = ImageDraw.Draw(card)
    try:
        film = thumbnail(tile.place, _SIDE)
        left, top = (_SIDE - film.width) // 2, (_SIDE - film.height) // 2
        card.paste(film, (left, top))
        _draw_boxes(draw, tile.boxes, (left, top, film.width, film.height), font)
    except BadPicture:
        draw.text((_MARGIN, _SIDE // 2), "the image cannot be read", _BAD, font)
    texts = [tile.title, *([f"! {tile.defect}"] if tile.defect else []), tile.text]
    lines = [(line, text[:1] == "!") for text in texts for line in _broken(text, draw, font)]
    if len(lines) > _LINES:
        lines[_LINES - 1] = "...", False
    for i, (line, bad) in enumerate(lines[:_LINES]):
        draw.text((2, _SIDE + 2 + i * _LINE), line, _BAD if bad else _INK, font)
    if tile.defect:
        draw.rectangle((0, 0, _SIDE - 1, _SIDE - 1), outline=_BAD, width=3)
    return card


def _draw_boxes(draw: ImageDraw.ImageDraw, boxes: _Boxes, frame: tuple[int, int, int, int], font: _Font) -> None:
    left, top, width, height = frame
    for i, (quad, label, sound) in enumerate(boxes):
        color = _COLORS[i % len(_COLORS)] if sound else _BAD
        # Whatever is wrong with it, it is drawn as far as it is on the card.
        across = sorted(min(max(left + share * width, 0), _SIDE - 1) for share in quad[::2])
        down = sorted(min(max(top + share * height, 0), _SIDE - 1) for share in quad[1::2])
        draw.rectangle((across[0], down[0], across[1], down[1]), outline=color, width=2)
        lines = _broken(label, draw, font) if label else []
        # From the box's left edge, moved as far to the left and down as the whole label needs.
        start = max(min(across[0] + 2, _SIDE - 2 - max((draw.textlength(line, font) for line in lines), default=0)), 2)
        above = max(down[0] - len(lines) * _LINE, 0)
        for number, line in enumerate(lines):
            corner = start, above + number * _LINE
            draw.rectangle(draw.textbbox(corner, line, font), fill=_PAGE)
            draw.text(corner, line, color, font)


def _broken(text: str, draw: ImageDraw.ImageDraw, font: _Font) -> list[str]:
    """The text in lines that fit the card: broken between words, and within a word that is too long."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if draw.textlength(longer, font) <= _SIDE - 4:
            lines[-1] = longer
            continue
        lines += [""] if lines[-1] else []
        for letter in word:
            lines += [""] if draw.textlength(lines[-1] + letter, font) > _SIDE - 4 else []
            lines[-1] += letter
    return lines
