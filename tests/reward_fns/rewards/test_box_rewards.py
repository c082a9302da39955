import itertools
import math
import random
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from reward_fns.boxes import Box, assign, iou_matrix
from reward_fns.conventions import get_convention
from reward_fns.registry import get
from reward_fns.rewards.box_f1 import box_f1
from reward_fns.rewards.box_giou import box_giou
from reward_fns.rewards.box_iou import box_iou
from reward_fns.rewards.box_soft_f1 import box_soft_f1
from reward_fns.spec import resolve

REWARDS = [box_soft_f1, box_iou, box_giou, box_f1]
# Figure 1 of arXiv 2512.10691.
PREDICTED, TRUE = (Box(0.35, 0.51, 0.75, 0.64),), (Box(0.38, 0.47, 0.76, 0.62),)
LEFT, RIGHT, WHOLE = Box(0.0, 0.0, 0.5, 1.0), Box(0.5, 0.0, 1.0, 1.0), Box(0.0, 0.0, 1.0, 1.0)
BAD = (0.5, 0.5, 0.2, 0.2)

side = st.tuples(st.integers(0, 20), st.integers(0, 20)).filter(lambda ends: ends[0] < ends[1])
box = st.builds(lambda x, y: Box(x[0] / 20, y[0] / 20, x[1] / 20, y[1] / 20), side, side)
box_sets = st.lists(box, max_size=5).map(tuple)


def test_the_papers_figure():
    assert box_soft_f1(PREDICTED, TRUE) == pytest.approx(0.596, abs=5e-4)
    assert box_soft_f1(PREDICTED, TRUE, variant="released") == pytest.approx(0.747, abs=5e-4)
    assert box_iou(PREDICTED, TRUE) == pytest.approx(0.596, abs=5e-4)
    assert box_f1(PREDICTED, TRUE) == 1.0
    assert box_f1(PREDICTED, TRUE, threshold=0.6) == 0.0


def test_values_by_hand():
    # LEFT fits exactly, RIGHT overlaps nothing: S = 1 of 2 predictions and 1 reference.
    sides = (LEFT, RIGHT), (LEFT,)
    assert box_soft_f1(*sides) == pytest.approx(2 / 3)
    assert box_soft_f1(*sides, variant="released") == pytest.approx(2 / 3)
    assert box_iou(*sides) == 0.5
    assert box_giou(*sides) == 0.5
    assert box_f1(*sides) == pytest.approx(2 / 3)
    # IoU 0.5: released has precision 1 and recall 0.5.
    assert box_soft_f1((LEFT,), (WHOLE,)) == 0.5
    assert box_soft_f1((LEFT,), (WHOLE,), variant="released") == pytest.approx(2 / 3)
    assert box_giou((LEFT,), (RIGHT,)) == 0.5
    assert box_soft_f1((LEFT,), (RIGHT,), variant="released") == 0.0


def test_f1_takes_the_matching_with_the_most_hits():
    # The largest sum of IoU pairs the first two (1.0 + 0.0); at 0.3, both can have a partner.
    references = (Box(0.0, 0.0, 0.4, 1.0), Box(0.0, 0.0, 1.0, 1.0))
    predictions = (Box(0.0, 0.0, 0.4, 1.0), Box(0.0, 0.0, 0.2, 1.0))
    assert box_f1(predictions, references, threshold=0.35) == 1.0


def test_a_vanishing_overlap_is_no_division_by_zero():
    sliver = (Box(0.0, 0.0, 5e-324, 1.0), RIGHT, RIGHT, RIGHT)
    for variant in ("symmetric", "released"):
        assert box_soft_f1(sliver, (LEFT,) * 3, variant=variant) == pytest.approx(0.0)


def test_threshold_zero_still_needs_overlap():
    assert box_f1((LEFT,), (RIGHT,), threshold=0.0) == 0.0


@pytest.mark.parametrize("reward", REWARDS)
def test_empty_sides(reward):
    assert reward((), ()) == 1.0
    assert reward((), (), both_empty=0.0) == 0.0
    assert reward((LEFT,), ()) == 0.0
    assert reward((), (LEFT,)) == 0.0
    assert reward((), (), invalid_boxes=(BAD,)) == 0.0
    assert reward((), (), invalid_boxes=(BAD,), invalid="ignore") == 1.0


@pytest.mark.parametrize("reward", REWARDS)
def test_spam_costs_unless_told_otherwise(reward):
    clean = reward((LEFT,), (LEFT,))
    assert clean == 1.0
    assert reward((LEFT,), (LEFT,), invalid_boxes=(BAD,)) < clean
    assert reward((LEFT,), (LEFT,), invalid_boxes=(BAD,), invalid="ignore") == clean
    assert reward((LEFT, LEFT), (LEFT,)) < clean
    assert reward((LEFT, LEFT), (LEFT,), duplicates="merge") == clean


@pytest.mark.parametrize("reward", REWARDS)
def test_labels(reward):
    named, other = Box(*LEFT.quad, "Nodule"), Box(*LEFT.quad, "effusion")
    assert reward((named,), (other,)) == 1.0
    assert reward((named,), (other,), labels="match") == 0.0
    assert reward((named,), (Box(*LEFT.quad, "nodule"),), labels="match") == 1.0


@pytest.mark.parametrize("reward", REWARDS)
@given(predictions=box_sets, references=box_sets)
def test_range_symmetry_and_order(reward, predictions, references):
    value = reward(predictions, references)
    assert 0.0 <= value <= 1.0
    assert reward(references, predictions) == pytest.approx(value, abs=1e-12)
    assert reward(predictions[::-1], references[::-1]) == pytest.approx(value, abs=1e-12)
    assert reward(references, references) == 1.0


@given(box_sets.filter(len), box_sets.filter(len))
def test_box_iou_and_box_f1_against_brute_force(predictions, references):
    few, many = sorted((predictions, references), key=len)
    ious = iou_matrix(np.array([b.quad for b in few]), np.array([b.quad for b in many]))
    pairings = [
        [ious[row, column] for row, column in enumerate(columns)]
        for columns in itertools.permutations(range(len(many)), len(few))
    ]
    assert box_iou(predictions, references) == pytest.approx(max(map(sum, pairings)) / len(many))
    hits = max(sum(iou >= 0.5 for iou in pairing) for pairing in pairings)
    assert box_f1(predictions, references) == pytest.approx(2 * hits / (len(few) + len(many)))


def test_giou_rises_as_a_box_comes_nearer_without_overlap():
    target = (Box(0.8, 0.0, 1.0, 1.0),)
    values = [box_giou((Box(x, 0.0, x + 0.1, 1.0),), target) for x in (0.0, 0.2, 0.4, 0.6)]
    assert values == sorted(set(values))


def released_soft_f1(text, references):
    """The formula of the code released with arXiv 2512.10691, written down from its description, without numpy."""
    number = r"\s*(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)\s*"
    found = [[float(n) for n in m.groups()] for m in re.finditer(r"\[" + ",".join([number] * 4) + r"\]", text)]
    predictions = [quad for quad in found if all(map(math.isfinite, quad))]
    if not predictions or not references:
        return 0.0

    def area(x1, y1, x2, y2):
        return max(0.0, x2 - x1) * max(0.0, y2 - y1)

    def iou(a, b):
        shared = area(max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
        union = area(*a) + area(*b) - shared
        return shared / union if union > 0 else 0.0

    cost = [[1.0 - iou(p, r) for r in references] for p in predictions]
    matched = [1.0 - cost[p][r] for p, r in zip(*linear_sum_assignment(cost), strict=True) if cost[p][r] < 1.0]
    soft = sum(matched)
    recall = soft / len(references)
    precision = soft / (soft + len(predictions) - len(matched)) if soft else 0.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def test_the_paper_preset_equals_the_released_formula():
    rng = random.Random(0)
    spec = resolve(preset="paper_grounding")
    (component,) = spec.tasks["grounding"]
    kinds = set()
    for _ in range(2000):
        low, high = rng.choice([(0, 1), (-0.3, 1.3), (-5, 5), (-1e12, 1e12)])
        quads = [[rng.uniform(low, high) for _ in range(4)] for _ in range(rng.randrange(6))]
        quads = [sorted(q[::2]) + sorted(q[1::2]) if rng.random() < 0.8 else q for q in quads]
        quads = [[q[0], q[2], q[1], q[3]] for q in quads]
        more = rng.choice(
            ["", " [+0.1, 0, 1, 1]", "[.1, 0, 1, 1] [1., 0, 1, 1]", "(0, 0, 1, 1)", " [1e999, 0, 1, 1]",
             " [0.5, 0.5, 0.5, 0.5]", "[0.2, 0.1"]
        )  # fmt: skip
        text = " and ".join(map(str, quads)) + more
        references = [
            (rng.uniform(0, 0.4), rng.uniform(0, 0.4), rng.uniform(0.5, 1), rng.uniform(0.5, 1))
            for _ in range(rng.randrange(4))
        ]
        parsed = get_convention("radvlm").parse(text, (1, 1), reader=spec.boxes)
        kinds.add((bool(parsed.boxes), bool(parsed.invalid), bool(references)))
        value = component.reward(
            parsed.boxes, tuple(Box(*r) for r in references), component.options, {"invalid_boxes": parsed.invalid}
        )
        assert value == pytest.approx(released_soft_f1(text, references), abs=1e-9)
    assert len(kinds) == 8


# One of two places is right with an even chance; a box there has IoU 0.78 with it, one around both has 0.4.
PLACES = (Box(0.1, 0.2, 0.3, 0.8), Box(0.4, 0.2, 0.6, 0.8))
GUESSES = tuple(Box(place.x1, 0.2, place.x1 + 0.156, 0.8) for place in PLACES)
AROUND = (Box(0.1, 0.2, 0.6, 0.8),)


@pytest.mark.parametrize(
    ("reward", "options", "one", "both", "around"),
    [
        (box_soft_f1, {}, 0.39, 0.52, 0.4),
        (box_soft_f1, {"beta": 0.5}, 0.39, 0.433, 0.4),
        (box_soft_f1, {"variant": "released"}, 0.438, 0.561, 0.571),
        (box_f1, {}, 0.5, 0.667, 0.0),
        (box_f1, {"beta": 0.5}, 0.5, 0.556, 0.0),
        (box_iou, {}, 0.39, 0.39, 0.4),
        (box_giou, {}, 0.623, 0.445, 0.7),
    ],
)
def test_what_hedging_earns(reward, options, one, both, around):
    def expected(answer):
        return sum(reward(answer, (place,), **options) for place in PLACES) / 2

    assert iou_matrix(np.array([GUESSES[0].quad]), np.array([PLACES[0].quad])) == pytest.approx(0.78)
    found = [expected(GUESSES[:1]), expected(GUESSES), expected(AROUND)]
    assert found == pytest.approx([one, both, around], abs=6e-4)


@given(box_sets.filter(len), box_sets.filter(len), st.floats(0.1, 10))
def test_beta_weighs_precision_and_recall(predictions, references, beta):
    soft = sum(assign(iou_matrix(*(np.array([b.quad for b in side]) for side in (predictions, references)))))
    precision, recall = soft / len(predictions), soft / len(references)
    value = (1 + beta**2) * precision * recall / (beta**2 * precision + recall) if soft else 0.0
    assert box_soft_f1(predictions, references, beta=beta) == pytest.approx(value)
    assert box_soft_f1(predictions, references) == 2 * soft / (len(predictions) + len(references))
    assert box_soft_f1(references, references, beta=beta) == pytest.approx(1.0)


def test_every_box_reward_documents_its_shared_options():
    for name in ("box_soft_f1", "box_iou", "box_giou", "box_f1"):
        entry = get(name)
        assert {"both_empty", "invalid", "duplicates", "labels"} <= set(entry.options)
        assert entry.context == ("invalid_boxes",)
