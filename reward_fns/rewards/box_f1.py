"""F1 of boxes at an IoU threshold."""

from typing import Annotated

import numpy as np

from reward_fns.boxes import Box, Duplicates, Invalid, Labels, Quad, assign, compare
from reward_fns.registry import Between, reward


@reward("box_f1", task="grounding", range=(0.0, 1.0), parameter="threshold")
def box_f1(
    prediction: tuple[Box, ...],
    reference: tuple[Box, ...],
    threshold: Annotated[float, Between(0, 1)] = 0.5,
    both_empty: Annotated[float, Between(0, 1)] = 1.0,
    beta: Annotated[float, Between(0.1, 10)] = 1.0,
    invalid: Invalid = "count",
    duplicates: Duplicates = "count",
    labels: Labels = "ignore",
    invalid_boxes: tuple[Quad, ...] = (),
) -> float:
    """F1 that counts a pair of boxes as found if their IoU reaches a threshold; `box_f1@0.5` sets it in the name.

    2 TP / (n_pred + n_ref), with TP the most one-to-one pairs of IoU >= threshold. An empty side gives 0.
    Source: the usual F1 of detection; not the per-sample AP@0.5 of arXiv 2512.10691's tables.

    Args:
        threshold: IoU from which a pair counts, 0 to 1; at 0 any overlap does.
        both_empty: value if neither side has a box, 0 to 1.
        beta: how many times recall weighs as much as precision (F-beta): below 1, surplus boxes cost more.
        invalid, duplicates, labels, invalid_boxes: see `reward_fns.boxes.compare`.

    Returns:
        0 to 1, in microseconds. Gaming: hedging pays. Where two places are equally likely, both boxes earn 0.67 and
        either one 0.5 on average; with beta=0.5 both earn 0.56. A group of rollouts often gets one value: no signal.

    >>> box_f1((Box(0.0, 0.0, 0.5, 1.0), Box(0.6, 0.0, 0.7, 0.1)), (Box(0.0, 0.0, 1.0, 1.0),))
    0.6666666666666666
    """
    sides = compare(prediction, reference, invalid_boxes, invalid=invalid, duplicates=duplicates, labels=labels)
    if sides.empty:
        return both_empty
    ious = sides.ious()
    hits = assign(((ious >= threshold) & (ious > 0)).astype(np.float64))
    weight = beta * beta
    return (1.0 + weight) * len(hits) / (sides.n_predictions + weight * sides.n_references)
