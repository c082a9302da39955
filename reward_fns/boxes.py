"""The box record, IoU, generalized IoU and one-to-one matching."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Quad = tuple[float, float, float, float]
Floats = NDArray[np.float64]

Invalid = Literal["count", "ignore", "as_written"]
Duplicates = Literal["count", "merge"]
Labels = Literal["ignore", "match"]

# Coordinates are cut here before areas are taken, or a box of 1e308 would make them infinite. So far outside the
# image that no IoU changes by more than 1e-9.
_FAR = 1e9


@dataclass(frozen=True, slots=True)
class Box:
    """A box on an image: corners as shares of its width and height, x to the right and y down.

    Args:
        x1, y1: upper left corner, 0 to 1.
        x2, y2: lower right corner, 0 to 1, greater than x1 and y1; ValueError otherwise.
        label: what is in the box; may be empty.

    >>> Box(0.38, 0.47, 0.76, 0.62).quad
    (0.38, 0.47, 0.76, 0.62)
    """

    x1: float
    y1: float
    x2: float
    y2: float
    label: str = ""

    def __post_init__(self) -> None:
        if not (0.0 <= self.x1 < self.x2 <= 1.0 and 0.0 <= self.y1 < self.y2 <= 1.0):
            raise ValueError(f"need 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1: {self}")

    @property
    def quad(self) -> Quad:
        """(x1, y1, x2, y2)."""
        return (self.x1, self.y1, self.x2, self.y2)


def iou_matrix(predictions: Floats, references: Floats) -> Floats:
    """(n, m) intersection over union, 0 to 1 and always finite; 0 where both boxes have area 0.

    Args:
        predictions, references: (n, 4) and (m, 4) finite corners x1, y1, x2, y2, any unit; inverted boxes have area 0.

    The example of figure 1 of arXiv 2512.10691:

    >>> iou_matrix(np.array([[0.35, 0.51, 0.75, 0.64]]), np.array([[0.38, 0.47, 0.76, 0.62]])).round(3)
    array([[0.596]])
    """
    return _ratio(*_areas(*_columns(predictions, references)))


def giou_matrix(predictions: Floats, references: Floats) -> Floats:
    """(n, m) IoU minus the share of the enclosing box that neither box covers, -1 to 1 (arXiv 1902.09630).

    Boxes are as for `iou_matrix`.

    >>> giou_matrix(np.array([[0.0, 0.0, 0.5, 1.0]]), np.array([[0.5, 0.0, 1.0, 1.0], [0.75, 0.0, 1.0, 1.0]]))
    array([[ 0.  , -0.25]])
    """
    first, second = _columns(predictions, references)
    overlap, union = _areas(first, second)
    enclosing = _area(np.minimum(first[:2], second[:2]), np.maximum(first[2:], second[2:]))
    return np.clip(_ratio(overlap, union) - _ratio(enclosing - union, enclosing), -1.0, 1.0)


def _columns(predictions: Floats, references: Floats) -> tuple[Floats, Floats]:
    """Corners first, (4, n, 1) and (4, 1, m), so that every step below is one call for all pairs."""
    first, second = (np.minimum(np.maximum(boxes.T, -_FAR), _FAR) for boxes in (predictions, references))
    return first[:, :, None], second[:, None, :]


def _areas(first: Floats, second: Floats) -> tuple[Floats, Floats]:
    """Overlap and union of every pair."""
    overlap = _area(np.maximum(first[:2], second[:2]), np.minimum(first[2:], second[2:]))
    return overlap, _area(first[:2], first[2:]) + _area(second[:2], second[2:]) - overlap


def _area(low: Floats, high: Floats) -> Floats:
    sides: Floats = np.maximum(high - low, 0.0)
    return sides[0] * sides[1]


def _ratio(part: Floats, total: Floats) -> Floats:
    return np.divide(part, total, out=np.zeros_like(part), where=total > 0)


def matches(similarity: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of the one-to-one pairs with the largest sum (Hungarian method), without those of similarity 0.

    Of (n, m) similarities of at least 0 these are at most min(n, m). Greedy choice would take 0.9 and then 0.0 here:

    >>> [places.tolist() for places in matches(np.array([[0.9, 0.8], [0.7, 0.0]]))]
    [[0, 1], [1, 0]]
    """
    from scipy.optimize import linear_sum_assignment  # half a second to import: not paid by `list`

    rows, columns = linear_sum_assignment(similarity, maximize=True)
    kept = similarity[rows, columns] > 0
    return rows[kept], columns[kept]


def assign(similarity: Floats) -> Floats:
    """The similarities of the `matches`."""
    values: Floats = similarity[matches(similarity)]
    return values


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two sets of boxes after the options that all box rewards share."""

    predictions: Floats  # (n, 4), those that may match
    references: Floats  # (m, 4)
    n_predictions: int  # how many boxes the prediction counts as; at least n
    n_references: int  # m
    comparable: NDArray[np.bool_]  # (n, m), which pairs may match

    @property
    def empty(self) -> bool:
        """Whether neither side has a box."""
        return self.n_predictions == 0 and self.n_references == 0

    def ious(self) -> Floats:
        """(n, m) IoU, 0 for pairs that may not match."""
        return iou_matrix(self.predictions, self.references) * self.comparable

    def gious(self) -> Floats:
        """(n, m) generalized IoU mapped to 0..1 as (1 + GIoU) / 2, 0 for pairs that may not match."""
        return (1.0 + giou_matrix(self.predictions, self.references)) / 2.0 * self.comparable


def compare(
    prediction: Sequence[Box],
    reference: Sequence[Box],
    invalid_boxes: Sequence[Quad] = (),
    *,
    invalid: Invalid = "count",
    duplicates: Duplicates = "count",
    labels: Labels = "ignore",
) -> Comparison:
    """Apply the options that all box rewards share.

    Args:
        prediction, reference: the valid boxes of an answer, and the true ones.
        invalid_boxes: malformed boxes of the answer: out of range, degenerate or not finite.
        invalid: "count" them as predictions that match nothing, so that there is no free spam; "ignore" them; or
            take the finite ones "as_written", as the code released with arXiv 2512.10691 does.
        duplicates: "count" every copy of a predicted box, or "merge" exact copies (same corners and label).
        labels: "ignore" them, or let only boxes whose labels are equal (but for case) "match".

    >>> box = Box(0.1, 0.1, 0.5, 0.5)
    >>> compare([box, box], [box], [(0.5, 0.5, 0.2, 0.2)]).n_predictions
    3
    >>> compare([box, box], [box], [(0.5, 0.5, 0.2, 0.2)], invalid="ignore", duplicates="merge").n_predictions
    1
    """
    if duplicates == "merge":
        prediction, invalid_boxes = list(dict.fromkeys(prediction)), list(dict.fromkeys(invalid_boxes))
    ours = [(box.quad, box.label.casefold()) for box in prediction]
    theirs = [(box.quad, box.label.casefold()) for box in reference]
    if invalid == "as_written":
        ours += [(quad, "") for quad in invalid_boxes if all(map(math.isfinite, quad))]
    n_predictions = len(ours) + (len(invalid_boxes) if invalid == "count" else 0)
    comparable = np.ones((len(ours), len(theirs)), dtype=bool)
    if labels == "match":
        equal = [label == wanted for _, label in ours for _, wanted in theirs]
        comparable = np.array(equal, dtype=bool).reshape(comparable.shape)
    first, second = (np.array([quad for quad, _ in side], dtype=np.float64).reshape(-1, 4) for side in (ours, theirs))
    return Comparison(first, second, n_predictions, len(theirs), comparable)
