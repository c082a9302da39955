"""Metrics of the boxes of a sample: the published AP in text order, and shares of covered area."""

import re
from collections.abc import Sequence

import numpy as np

from reward_fns.boxes import Floats, Quad, iou_matrix

_BOX = re.compile(r"\[([\d.]+),\s*([\d.]+),\s*([\d.]+),\s*([\d.]+)\]")


def paper_boxes(text: str, scale: tuple[int, int] = (1, 1)) -> Floats:
    """(n, 4) boxes as the evaluation code of arXiv 2512.10691 reads them, digits and dots only, divided by ``scale``.

    A number such as 1.2.3 ends that code; here its box is left out.

    >>> paper_boxes("[0.1, 0.2,0.3, 0.4], [-0.1, 0.2, 0.3, 0.4] and [.5, .5, .2, 1e-1]")
    array([[0.1, 0.2, 0.3, 0.4]])
    """
    numbers = (found for found in _BOX.findall(text) if all(n.count(".") < 2 and n != "." for n in found))
    quads = [[*map(float, found)] for found in numbers]
    return np.array(quads, dtype=float).reshape(-1, 4) / [*scale, *scale]


def ap50_paper(predictions: Floats, references: Floats) -> float:
    """AP of one sample at IoU 0.5 as in table 2 of arXiv 2512.10691, 0 to 1; 0 if either side has no box.

    Boxes come in text order, without confidences. Each takes the reference that it overlaps most (the first of equals),
    and is false if another has taken that one or the IoU is below 0.5. The AP is the area under the precision envelope.
    As the released code (compute_metrics_tasks.py), but a pair without any area has IoU 0 instead of ending it.

    >>> true = np.array([[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]])
    >>> ap50_paper(true[[0, 0, 1]], true)  # the second box is false: 1/2 * 1 + 1/2 * 2/3
    0.8333333333333333
    """
    if not len(predictions) or not len(references):
        return 0.0
    ious, used, hits = iou_matrix(predictions, references), set(), np.zeros(len(predictions))
    for i, best in enumerate(ious.argmax(axis=1)):
        if ious[i, best] >= 0.5 and best not in used:
            hits[i] = 1.0
            used.add(best)
    recall = np.concatenate(([0.0], np.cumsum(hits) / len(references), [1.0]))
    precision = np.concatenate(([0.0], np.cumsum(hits) / np.arange(1, len(hits) + 1), [0.0]))
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    steps = np.flatnonzero(np.diff(recall))
    return float(np.sum(np.diff(recall)[steps] * envelope[steps + 1]))


def mask_overlap(predictions: Sequence[Quad], references: Sequence[Quad]) -> tuple[float, float]:
    """Precision and recall of the area that boxes cover, 0 to 1: both 1 without any box, 0 if one side has none.

    After RadFact (arXiv 2406.04449), which draws both unions on 224 x 224 pixels; here areas are exact.

    >>> mask_overlap([(0.0, 0.0, 0.5, 1.0), (0.25, 0.0, 0.5, 1.0)], [(0.25, 0.0, 1.0, 1.0)])
    (0.5, 0.3333333333333333)
    """
    if not predictions or not references:
        return (1.0, 1.0) if not predictions and not references else (0.0, 0.0)
    edges = [np.unique(np.array([*predictions, *references])[:, [axis, axis + 2]]) for axis in (0, 1)]
    area = np.outer(*map(np.diff, edges))
    masks = np.zeros((2, *area.shape), dtype=bool)
    for mask, boxes in zip(masks, (predictions, references), strict=True):
        for box in boxes:
            (left, right), (top, bottom) = (np.searchsorted(edges[axis], box[axis::2]) for axis in (0, 1))
            mask[left:right, top:bottom] = True
    both, predicted, true = (float(area[mask].sum()) for mask in (masks.all(axis=0), *masks))
    return both / predicted, both / true
