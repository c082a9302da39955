"""Boxes of a data set in a wrong unit or form: each may pass alone, but together they cannot be boxes on films."""

from collections.abc import Iterable

import numpy as np

from reward_fns.boxes import Quad

_MIN_BOXES = 20  # below this, chance could look like a rule
_MIN_SPECKS = 5  # no finding is smaller than `_SPECK`, so a few are enough
_SPECK = 3.0  # pixels
_CORNER = 0.34
_MOST = 0.9
_SWAPPED = 0.1  # of the boxes of a published set, far fewer have swapped corners


class BoxUnits:
    """Collects the boxes of a data set and says whether their unit is plausible.

    Of the 984 real boxes of NIH ChestX-ray14 none is smaller than 3 pixels, 5 lie in the upper left ninth, none ends at
    the border, and 181 have a width and height that exceed left and top edge; left edge and width correlate by -0.31,
    top edge and height by -0.48. Read as [x, y, width, height], the corners of 191 stay within the image.

    >>> units = BoxUnits()
    >>> units.add([(0.0003, 0.0004, 0.0005, 0.0007)] * 5, 1024, 1024)
    >>> units.complaint()[:55]
    '5 of 5 boxes are smaller than 3 pixels, so the coordina'
    """

    def __init__(self) -> None:
        self.boxes = self._specks = self._in_corner = self._at_border = self._as_corners = self._as_sides = 0
        self._across, self._down = np.zeros(6), np.zeros(6)  # sums over the boxes, see `_correlation`

    def add(self, boxes: Iterable[Quad], width: int, height: int) -> None:
        """Count the boxes, in shares, of an image of this size in pixels."""
        for x1, y1, x2, y2 in boxes:
            across, down = x2 - x1, y2 - y1
            self.boxes += 1
            self._specks += across * width < _SPECK and down * height < _SPECK
            self._in_corner += x2 < _CORNER and y2 < _CORNER
            self._at_border += x2 == 1 or y2 == 1
            self._as_corners += across > x1 and down > y1
            self._as_sides += x1 + x2 <= 1 and y1 + y2 <= 1
            self._across += 1, x1, across, x1 * x1, across * across, x1 * across
            self._down += 1, y1, down, y1 * y1, down * down, y1 * down

    def complaint(self, outside: int = 0, swapped: int = 0) -> str:
        """Why these boxes cannot be in the unit and form that they were read in; "" if they can.

        Further boxes were left out: `outside`, because they leave their image, and `swapped`, because a right or lower
        edge is not beyond the left or upper one.
        """
        if self.boxes >= _MIN_SPECKS and self._specks > self.boxes / 2:
            fact = f"{self._specks:,} of {self.boxes:,} boxes are smaller than {_SPECK:g} pixels"
            return f"{fact}, so the coordinates are probably shares of the image that were read as pixels"
        # Width and height read as corners: few of them exceed left and upper edge. Swapped corners come among sound
        # boxes, most of which would leave the image if they were read as [x, y, width, height].
        total = self.boxes + swapped
        if total >= _MIN_BOXES and swapped > _SWAPPED * total and self._as_sides >= _MOST * self.boxes:
            return (
                f"{swapped:,} of {total:,} boxes have no area as [x1, y1, x2, y2], and {self._as_sides:,} of the other "
                f"{self.boxes:,} lie within the image as [x, y, width, height] too, so that is probably what they are"
            )
        if self.boxes < _MIN_BOXES:
            return ""
        if self._in_corner > _MOST * self.boxes:
            fact = f"{self._in_corner:,} of {self.boxes:,} boxes lie in the upper left ninth of their image"
            cause = "shares, percent or thousandths that were read as pixels, or pixels of a smaller copy"
            return f"{fact}, so the coordinates are probably {cause}"
        # Corners read as width and height: a width is then a right edge, so it is larger than the left edge and grows
        # with it (in real boxes it shrinks), and boxes in the right or lower half of an image leave it or are clipped.
        alike = _correlation(*self._across) + _correlation(*self._down) > 0
        if self._at_border > self.boxes / 2 or (
            self._as_corners > _MOST * self.boxes and (alike or outside > self.boxes / 2)
        ):
            return (
                f"{self._at_border:,} of {self.boxes:,} boxes end at the right or lower border, {outside:,} more leave "
                f"the image, and in {self._as_corners:,} width and height exceed left and top edge, so the coordinates "
                "are probably [x1, y1, x2, y2] that were read as [x, y, width, height]"
            )
        return ""


def _correlation(n: float, a: float, b: float, aa: float, bb: float, ab: float) -> float:
    """Pearson's correlation from the sums of 1, x, y, x * x, y * y and x * y."""
    spread = (n * aa - a * a) * (n * bb - b * b)
    return float((n * ab - a * b) / spread**0.5) if spread > 1e-12 else 0.0
