"""Boxes that annotations give in pixels, checked and made shares of the image."""

from __future__ import annotations

import math
from typing import Any

from data_prep.problems import Problems
from reward_fns.boxes import Box


def box(
    corners: tuple[Any, Any, Any, Any],
    size: tuple[int, int],
    label: str,
    where: str,
    problems: Problems,
    overshoot: float = 1.0,
) -> Box | None:
    """The box with these corners, or None (a problem) if they make none.

    Args:
        corners: x1, y1, x2, y2 in pixels of the image, as numbers or as text.
        size: width and height of the image in pixels.
        label: what is in the box.
        where: which annotation it is, for the list of problems.
        problems: gets boxes that are left out; that a box was clipped is a note.
        overshoot: pixels past the border that are clipped; a box that goes further is left out.
    """
    try:
        # Not bool, which is an int; not None, for which float() has no words.
        x1, y1, x2, y2 = (float(value) for value in corners if type(value) in (int, float, str))
    except (ValueError, OverflowError):
        problems.add("bad_box", where, f"corners {corners} are not four numbers; box not used")
        return None
    told = f"x {x1:g} to {x2:g}, y {y1:g} to {y2:g}"
    if not all(map(math.isfinite, (x1, y1, x2, y2))):
        problems.add("bad_box", where, f"{told} is not finite; box not used")
        return None
    if x1 >= x2 or y1 >= y2:
        problems.add("bad_box", where, f"{told} has no area, or its corners are swapped; box not used")
        return None
    width, height = size
    past = max(-x1, -y1, x2 - width, y2 - height)
    left, top, right, bottom = max(x1, 0.0), max(y1, 0.0), min(x2, width), min(y2, height)
    if past > overshoot or left >= right or top >= bottom:
        problems.add("box_outside", where, f"{told} leaves the {width} x {height} image; box not used")
        return None
    if past > 0:
        problems.notes["boxes clipped to the image"] += 1
    return Box(left / width, top / height, right / width, bottom / height, label)
