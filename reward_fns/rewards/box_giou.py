"""Generalized IoU of matched boxes."""

from typing import Annotated

from reward_fns.boxes import Box, Duplicates, Invalid, Labels, Quad, assign, compare
from reward_fns.registry import Between, reward


@reward("box_giou", task="grounding", range=(0.0, 1.0))
def box_giou(
    prediction: tuple[Box, ...],
    reference: tuple[Box, ...],
    both_empty: Annotated[float, Between(0, 1)] = 1.0,
    invalid: Invalid = "count",
    duplicates: Duplicates = "count",
    labels: Labels = "ignore",
    invalid_boxes: tuple[Quad, ...] = (),
) -> float:
    """Mean of (1 + GIoU) / 2 over one-to-one pairs of boxes, in which a box without a partner counts 0.

    The largest sum over a matching, divided by the larger number of boxes of the two sides. A box beside its target
    earns more the nearer it is; a surplus or missing box counts as GIoU -1, the worst. An empty side gives 0. GIoU is
    from arXiv 1902.09630; the mean over sets is our own.

    Args:
        both_empty: value if neither side has a box, 0 to 1.
        invalid, duplicates, labels, invalid_boxes: see `reward_fns.boxes.compare`.

    Returns:
        0 to 1, in microseconds. Gaming: any box near the middle of the image earns something, and where two places
        are equally likely, one box around both (IoU 0.4) earns 0.7 and either one 0.62 on average. Use it beside an
        IoU reward, to help a model that misses altogether.

    >>> near, far = ((Box(0.5, 0.0, 1.0, 1.0),), (Box(0.9, 0.0, 1.0, 1.0),))
    >>> [round(box_giou(boxes, (Box(0.0, 0.0, 0.5, 1.0),)), 3) for boxes in (near, far)]
    [0.5, 0.3]
    """
    sides = compare(prediction, reference, invalid_boxes, invalid=invalid, duplicates=duplicates, labels=labels)
    if sides.empty:
        return both_empty
    return float(assign(sides.gious()).sum()) / max(sides.n_predictions, sides.n_references)
