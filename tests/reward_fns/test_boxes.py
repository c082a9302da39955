import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from reward_fns.boxes import Box, assign, compare, giou_matrix, iou_matrix

A, B = Box(0.0, 0.0, 0.5, 1.0, "Nodule"), Box(0.25, 0.0, 0.75, 1.0, "nodule")
BAD = (0.5, 0.5, 0.2, 0.2)
NAN = (math.nan, 0.0, 1.0, 1.0)

wild = st.floats(allow_nan=False, allow_infinity=False)
quads = st.integers(0, 5).flatmap(lambda n: arrays(np.float64, (n, 4), elements=wild))
unit = st.floats(0, 1)


@pytest.mark.parametrize(
    "corners",
    [
        (0.5, 0.0, 0.5, 1.0),
        (0.0, 0.5, 1.0, 0.4),
        (-0.01, 0.0, 1.0, 1.0),
        (0.0, 0.0, 1.01, 1.0),
        (math.nan, 0.0, 1.0, 1.0),
        (0.0, 0.0, math.inf, 1.0),
    ],
)
def test_bad_boxes_are_refused_and_printed(corners):
    with pytest.raises(ValueError, match=r"Box\(x1="):
        Box(*corners)


def test_iou_by_hand():
    assert iou_matrix(np.array([A.quad]), np.array([A.quad, B.quad])) == pytest.approx(np.array([[1.0, 1 / 3]]))


def test_giou_by_hand():
    left, right = np.array([[0.0, 0.0, 0.25, 1.0]]), np.array([[0.75, 0.0, 1.0, 1.0]])
    assert giou_matrix(left, right) == pytest.approx(-0.5)  # half of the enclosing box is empty


@given(quads, quads)
def test_matrices_are_finite_symmetric_and_in_range_for_any_finite_numbers(predictions, references):
    iou, giou = iou_matrix(predictions, references), giou_matrix(predictions, references)
    assert iou.shape == giou.shape == (len(predictions), len(references))
    assert np.all((iou >= 0) & (iou <= 1)) and np.all((giou >= -1) & (giou <= 1))
    assert np.array_equal(iou, iou_matrix(references, predictions).T)
    assert np.array_equal(giou, giou_matrix(references, predictions).T)


@given(st.integers(0, 5), st.integers(0, 5), st.data())
def test_assignment_equals_brute_force(n, m, data):
    similarity = data.draw(arrays(np.float64, (n, m), elements=unit))
    wide = similarity if n <= m else similarity.T
    best = max(
        sum(wide[row, column] for row, column in enumerate(columns))
        for columns in itertools.permutations(range(wide.shape[1]), wide.shape[0])
    )
    assert assign(similarity).sum() == pytest.approx(best, abs=1e-12)


def test_assignment_leaves_out_pairs_without_overlap():
    assert assign(np.array([[0.5, 0.0], [0.0, 0.0]])).tolist() == [0.5]


@pytest.mark.parametrize(("invalid", "counted", "matchable"), [("count", 3, 1), ("ignore", 1, 1), ("as_written", 2, 2)])
def test_invalid_boxes(invalid, counted, matchable):
    sides = compare([A], [B], [BAD, NAN], invalid=invalid)
    assert (sides.n_predictions, len(sides.predictions), sides.n_references) == (counted, matchable, 1)


def test_duplicates_merge_only_exact_copies():
    boxes = [A, A, Box(*A.quad, "other")]
    assert compare(boxes, [B], [BAD, BAD]).n_predictions == 5
    assert compare(boxes, [B], [BAD, BAD], duplicates="merge").n_predictions == 3


def test_labels_match_whatever_their_case():
    others = [B, Box(*A.quad, "effusion")]
    assert compare([A], others).ious() == pytest.approx(np.array([[1 / 3, 1.0]]))
    assert compare([A], others, labels="match").ious() == pytest.approx(np.array([[1 / 3, 0.0]]))
    assert compare([A], others, labels="match").gious()[0, 1] == 0.0
    assert compare([], others, labels="match").ious().shape == (0, 2)


def test_boxes_scored_as_written_have_no_label():
    sides = compare([], [A], [(-0.1, 0.0, 0.5, 1.0)], invalid="as_written", labels="match")
    assert sides.ious().tolist() == [[0.0]]


def test_empty_means_no_box_on_either_side():
    assert compare([], []).empty
    assert compare([], [], [BAD], invalid="ignore").empty
    assert not compare([], [], [BAD]).empty
    assert not compare([], [A]).empty
