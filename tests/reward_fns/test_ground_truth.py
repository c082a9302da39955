import numpy as np
import pytest

from reward_fns.ground_truth import box_defects, is_quad, parse_ground_truth


def test_every_defect_is_listed():
    stored = {"boxes": [[0, 0, 2, 1], [0.5, 0.1, 0.2, 0.3], [1, 2]], "labels": ["a"], "frame": "wide"}
    truth, defects = parse_ground_truth(stored, "grounding")
    assert truth is None
    assert [defect.kind for defect in defects] == [
        "bad ground truth", "box outside", "swapped corners", "bad box", "bad ground truth",
    ]  # fmt: skip


def test_arrays_are_lists():
    stored = {"boxes": np.array([[0.1, 0.2, 0.5, 0.6]], dtype=np.float32), "labels": np.array(["mass"]),
              "frame": np.array([28, 56])}  # fmt: skip
    truth, defects = parse_ground_truth(stored, "grounding")
    assert not defects and truth.boxes[0].label == "mass" and truth.frame == (28, 56)
    assert truth.boxes[0].quad == pytest.approx((0.1, 0.2, 0.5, 0.6)) and type(truth.boxes[0].x1) is float


@pytest.mark.parametrize("stored", ["[" * 100_000, "{", '{"report": NaN}', "[]", None, b"\xff", 3])
def test_what_is_not_an_object(stored):
    truth, (defect,) = parse_ground_truth(stored, "report")
    assert truth is None and defect.kind == "bad ground truth"


@pytest.mark.parametrize(
    ("box", "sound"),
    [
        ([0, 0, 1, 1], True),
        ((0, 0, 1, 1), True),
        ([0, 0, 1, 10**400], False),
        ([0, 0, 1, True], False),
        ("0123", False),
    ],
)
def test_quads(box, sound):
    assert is_quad(box) is sound and bool(list(box_defects(box))) is not sound
