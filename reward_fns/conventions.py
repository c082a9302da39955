"""The ways models write boxes, each under a name, in both directions: rendering for a prompt, parsing an answer.

The numbers alone do not show which convention they follow, so nothing here guesses.
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from reward_fns.answers import Nothing, Reader, is_unreadable, read_quads
from reward_fns.boxes import Box, Quad
from reward_fns.errors import UsageError, unknown

MAX_BOXES = 100  # of an answer that can be valid, as in COCO's evaluation; the next ones that are read count as invalid
TOLERANCE = 1e-6  # how far outside the image, as a share of its size, a corner is still moved to the edge: float noise
MIN_PIXELS, MAX_PIXELS = 3136, 12845056  # published bounds of the images that Qwen2.5-VL sees
Frame = tuple[int, int]

_NOT_IN_NAME = re.compile(r"[\[\]:;\s]+")


@dataclass(frozen=True, slots=True)
class ParsedBoxes:
    """Boxes read from a text, in shares of the image's width and height, in text order.

    Invalid ones stay as they were written: not finite, out of range, x2 <= x1 or y2 <= y1, or beyond `MAX_BOXES`.
    """

    boxes: tuple[Box, ...]  # the valid ones
    invalid: tuple[Quad, ...]
    unreadable: bool  # no box can be read, and `reward_fns.answers.is_unreadable` holds


@dataclass(frozen=True, slots=True)
class Convention:
    """One way of writing boxes; a "resized pixel" is one of the image as Qwen2.5-VL's processor resizes it."""

    name: str  # as in `extra_info["box_format"]`
    hint: str  # one sentence for a prompt that describes the expected answer
    unit: Literal["share", "thousandth", "pixel", "resized pixel"]  # of a coordinate
    decimals: int  # of a coordinate
    as_json: bool  # a JSON list of {"bbox_2d", "label"} rather than text

    def frame(self, width: int, height: int, min_pixels: int | None = None, max_pixels: int | None = None) -> Frame:
        """Width and height in pixels of the image that coordinates refer to: the original or the resized one.

        Args:
            width, height: of the original image, in pixels.
            min_pixels, max_pixels: bounds of the image processor, for `qwen25vl`; None for its published defaults.

        >>> get_convention("pixel").frame(640, 480), get_convention("qwen25vl").frame(640, 480)
        ((640, 480), (644, 476))
        """
        if self.unit != "resized pixel":
            return width, height
        low = MIN_PIXELS if min_pixels is None else min_pixels
        return smart_resize(width, height, min_pixels=low, max_pixels=MAX_PIXELS if max_pixels is None else max_pixels)

    def describe(self, *, named: bool = False) -> str:
        """The hint; with named, also how to write the name of each finding (see `render`)."""
        if self.as_json or not named:
            return self.hint
        return f"{self.hint} Write the name of each finding before its places, as in name: [...] and [...]; name: [...]"

    def render(self, boxes: Sequence[Box], frame: Frame, *, named: bool = False) -> str:
        """The text that gives these boxes.

        A box that rounding would leave without width or height is widened by one unit of the last decimal. With named,
        text conventions group the boxes by label and write it before them (JSON always has labels); square brackets,
        colons and semicolons in it become spaces, because names end there. For conventions in pixels see `frame`.

        >>> boxes = [Box(0.123, 0.3, 0.45, 0.8, "nodule"), Box(0.5, 0.5, 0.501, 1.0, "line")]
        >>> get_convention("radvlm").render(boxes, (640, 480))
        '[0.12, 0.3, 0.45, 0.8] and [0.5, 0.5, 0.51, 1.0]'
        >>> get_convention("qwen3vl").render(boxes[:1], (640, 480))
        '[{"bbox_2d": [123, 300, 450, 800], "label": "nodule"}]'
        >>> get_convention("radvlm").render([*boxes, boxes[0]], (640, 480), named=True)
        'nodule: [0.12, 0.3, 0.45, 0.8] and [0.12, 0.3, 0.45, 0.8]; line: [0.5, 0.5, 0.51, 1.0]'
        """
        width, height = self.scale(frame)
        spans = [(self._span(box.x1, box.x2, width), self._span(box.y1, box.y2, height)) for box in boxes]
        rows = [[x1, y1, x2, y2] for (x1, x2), (y1, y2) in spans]
        if self.as_json:
            objects = [{"bbox_2d": row, "label": box.label} for row, box in zip(rows, boxes, strict=True)]
            return json.dumps(objects, ensure_ascii=False)
        if not named:
            return _listed([str(row) for row in rows])
        groups: dict[str, list[str]] = {}
        for row, box in zip(rows, boxes, strict=True):
            groups.setdefault(_NOT_IN_NAME.sub(" ", box.label).strip(), []).append(str(row))
        return "; ".join(f"{name}: {_listed(texts)}" if name else _listed(texts) for name, texts in groups.items())

    def scale(self, frame: Frame) -> Frame:
        """What coordinates are divided by to become shares of the image's width and height."""
        return {"share": (1, 1), "thousandth": (1000, 1000)}.get(self.unit, frame)

    def _span(self, low: float, high: float, size: int) -> tuple[float, float]:
        # Python's own round(x, 2), as in RadVLM's data, and not round(100 * x) / 100: they differ for 0.615.
        digits = self.decimals or None
        start, end = round(float(low) * size, digits), round(float(high) * size, digits)
        if start == end:
            unit = 10**-self.decimals if self.decimals else 1
            start, end = (start, round(end + unit, digits)) if end < size else (round(start - unit, digits), end)
        return start, end

    def parse(self, text: str, frame: Frame, *, reader: Reader = "tolerant", nothing: Nothing = "any") -> ParsedBoxes:
        """The boxes that any text gives; see `read_quads` and `is_unreadable` of `reward_fns.answers`.

        >>> get_convention("radvlm").parse("Seen at [0.1, 0.2, 0.3, 0.4] and [0.9, 0.1, 0.2, 0.3].", (640, 480))
        ... # doctest: +NORMALIZE_WHITESPACE
        ParsedBoxes(boxes=(Box(x1=0.1, y1=0.2, x2=0.3, y2=0.4, label=''),), invalid=((0.9, 0.1, 0.2, 0.3),),
                    unreadable=False)
        >>> named = get_convention("radvlm").parse("mass: [0, 0, .1, .1] and [0, 0, .2, .2]", (1, 1))
        >>> [box.label for box in named.boxes]
        ['mass', 'mass']
        """
        boxes: list[Box] = []
        invalid: list[Quad] = []
        width, height = self.scale(frame)
        for (x1, y1, x2, y2), label in read_quads(text, reader, names=not self.as_json):
            quad = (x1 / width, y1 / height, x2 / width, y2 / height)
            box = _valid(quad, label) if len(boxes) < MAX_BOXES else None
            if box is None:
                invalid.append(quad)
            else:
                boxes.append(box)
        unreadable = not boxes and not invalid and is_unreadable(text, nothing)
        return ParsedBoxes(tuple(boxes), tuple(invalid), unreadable)


def _listed(texts: Sequence[str]) -> str:
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def _valid(quad: Quad, label: str) -> Box | None:
    x1, y1, x2, y2 = (min(max(value, 0.0), 1.0) for value in quad)
    # Written so that nan, for which every comparison is false, fails.
    near = all(abs(value - cut) <= TOLERANCE for value, cut in zip(quad, (x1, y1, x2, y2), strict=True))
    return Box(x1, y1, x2, y2, label) if near and x1 < x2 and y1 < y2 else None


def smart_resize(
    width: int, height: int, factor: int = 28, min_pixels: int = MIN_PIXELS, max_pixels: int = MAX_PIXELS
) -> Frame:
    """Size to which Qwen2.5-VL's image processor brings an image (arXiv 2502.13923; the defaults are its own).

    Both sides become multiples of `factor` (patch size times merge size), with the area in pixels within the bounds
    and the aspect ratio kept as far as rounding allows. Raises ValueError if a side is below 1 or more than 200 times
    the other, which the processor refuses too.

    >>> smart_resize(640, 480), smart_resize(2500, 3056, max_pixels=451584)
    ((644, 476), (588, 728))
    """
    if min(width, height) < 1 or max(width, height) > 200 * min(width, height):
        raise ValueError(f"cannot resize an image of {width} x {height} pixels: sides below 1 or an aspect over 200")
    new_width, new_height = (max(factor, round(side / factor) * factor) for side in (width, height))
    if new_width * new_height > max_pixels:
        shrink = math.sqrt(width * height / max_pixels)
        new_width, new_height = (max(factor, int(side / shrink / factor) * factor) for side in (width, height))
    elif new_width * new_height < min_pixels:
        grow = math.sqrt(min_pixels / (width * height))
        new_width, new_height = (math.ceil(side * grow / factor) * factor for side in (width, height))
    return new_width, new_height


_ROWS = yaml.safe_load(Path(__file__).with_name("conventions.yaml").read_text(encoding="utf-8"))
CONVENTIONS = {name: Convention(name, **row) for name, row in _ROWS.items()}
"""All conventions by name."""


def get_convention(name: str) -> Convention:
    """The convention of that name; UsageError with the nearest name if there is none."""
    if name not in CONVENTIONS:
        raise UsageError(unknown("box format", name, CONVENTIONS))
    return CONVENTIONS[name]
