"""The metrics of boxes against oracles: another formulation, and counted pixels."""

from fractions import Fraction

import numpy as np
import pytest

from recipe.cxr_grpo.evaluation.grounding_metrics import ap50_paper, mask_overlap, paper_boxes


def published_iou(a, b):
    """As the released code writes it, with a pair without area, which ends that code, at 0."""
    overlap = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    union = areas[0] + areas[1] - overlap
    return overlap / union if union else 0.0


def oracle(predictions, references):
    """The AP as a sum over the hits of the best precision from there on, in exact fractions."""
    hits, taken = [], set()
    for box in predictions if references else ():
        ious = [published_iou(box, true) for true in references]
        best = max(range(len(ious)), key=lambda i: (ious[i], -i))
        hits.append(ious[best] >= 0.5 and best not in taken)
        taken |= {best} if hits[-1] else set()
    precisions = [Fraction(sum(hits[: i + 1]), i + 1) for i in range(len(hits))]
    return sum((max(precisions[i:]) for i, hit in enumerate(hits) if hit), Fraction(0)) / max(len(references), 1)


def box(rng):
    (x1, x2), (y1, y2) = (sorted(rng.choice(101, 2, replace=False) / 100) for _ in range(2))
    return [x1, y1, x2, y2]


def degenerate(rng, true):
    """A box that looks like none: swapped, without area, a point, far outside, huge, or an exact copy."""
    x1, y1, x2, y2 = true
    kinds = [[x2, y1, x1, y2], [x2, y2, x1, y1], [x1, y1, x1, y2], [x1, y1, x1, y1], [2.0, 2.0, 3.0, 3.0]]
    return [*kinds, [0.0, 0.0, 1e12, 1e12], list(true), [x1, y1, x2, (y1 + y2) / 2]][rng.integers(8)]


def random_sets(rng):
    references = [box(rng) for _ in range(rng.integers(0, 6))]
    predictions = []
    for _ in range(rng.integers(0, 9)):
        kind = rng.integers(4) if references else 0
        true = references[rng.integers(len(references))] if references else None
        near = true and (np.array(true) + rng.normal(0, 0.03, 4)).clip(0).round(2).tolist()
        predictions.append([box(rng), near, near, degenerate(rng, true) if true else None][kind])
    return predictions, references


def test_the_published_ap_on_10000_random_and_degenerate_sets():
    rng = np.random.default_rng(0)
    values = []
    for _ in range(10_000):
        predictions, references = random_sets(rng)
        text = "Seen at " + " and ".join("[{:f}, {:f}, {:f}, {:f}]".format(*quad) for quad in predictions)
        read = paper_boxes(text)
        assert read.tolist() == [[round(x, 6) for x in quad] for quad in predictions]
        values.append(ap50_paper(read, np.array(references).reshape(-1, 4)))
        assert values[-1] == pytest.approx(float(oracle(read.tolist(), references)), abs=1e-12)
    assert {0.0, 1.0} < set(values) and len(set(values)) > 100  # the sets are not trivial


def test_a_second_box_takes_no_second_best():
    true = np.array([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.9, 1.0]])
    assert ap50_paper(true[[0, 0]], true) == 0.5  # although each overlaps the other reference by 0.9
    assert ap50_paper(true, true) == 1.0
    assert ap50_paper(true[:0], true) == ap50_paper(true, true[:0]) == ap50_paper(true[:0], true[:0]) == 0.0


def test_text_order_counts():
    right, wrong, true = [0.0, 0.0, 0.5, 0.5], [0.6, 0.6, 0.9, 0.9], np.array([[0.0, 0.0, 0.5, 0.5]])
    assert ap50_paper(np.array([right, wrong]), true) == 1.0
    assert ap50_paper(np.array([wrong, right]), true) == 0.5


@pytest.mark.parametrize(
    ("text", "count"),
    [("[0.1,0.2, 0.3,\n0.4]", 1), ("[ 0.1, 0.2, 0.3, 0.4]", 0), ("[0.1, 0.2, 0.3, 0.4 ]", 0), ("[1e-1, 0, 1, 1]", 0),
     ("[-0.1, 0.2, 0.3, 0.4]", 0), ("(0.1, 0.2, 0.3, 0.4)", 0), ("[1.2.3, 0.2, 0.3, 0.4] [0., .2, 3, 4.]", 1),
     ("[0.1, 0.2, 0.3, 0.4, 0.5]", 0), ("[[0.1, 0.2, 0.3, 0.4]]", 1), ("[" * 100_000, 0), ("[1, " * 50_000, 0),
     ("[" + "1" * 100_000 + ", 1, 1, 1]", 1)],
)  # fmt: skip
def test_what_the_published_reader_takes_for_a_box(text, count):
    assert len(paper_boxes(text)) == count


def test_boxes_of_other_conventions_are_scaled():
    assert paper_boxes('{"bbox_2d": [100, 200, 300, 1000]}', (1000, 1000)).tolist() == [[0.1, 0.2, 0.3, 1.0]]


def test_mask_overlap_counts_pixels():
    rng = np.random.default_rng(1)
    for _ in range(500):
        sides = [[box(rng) for _ in range(rng.integers(1, 5))] for _ in range(2)]
        masks = np.zeros((2, 100, 100), dtype=bool)
        for mask, boxes in zip(masks, sides, strict=True):
            for quad in boxes:
                x1, y1, x2, y2 = (np.array(quad) * 100).round().astype(int)
                mask[y1:y2, x1:x2] = True
        both = masks.all(axis=0).sum()
        assert mask_overlap(*sides) == pytest.approx((both / masks[0].sum(), both / masks[1].sum()), abs=1e-9)


def test_mask_overlap_without_boxes():
    some = [(0.0, 0.0, 1.0, 1.0)]
    assert mask_overlap([], []) == (1.0, 1.0)
    assert mask_overlap(some, []) == mask_overlap([], some) == (0.0, 0.0)
