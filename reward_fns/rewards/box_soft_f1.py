"""Soft F1 of boxes."""

from typing import Annotated, Literal

from reward_fns.boxes import Box, Duplicates, Invalid, Labels, Quad, assign, compare
from reward_fns.registry import Between, reward


@reward("box_soft_f1", task="grounding", range=(0.0, 1.0))
def box_soft_f1(
    prediction: tuple[Box, ...],
    reference: tuple[Box, ...],
    variant: Literal["symmetric", "released"] = "symmetric",
    both_empty: Annotated[float, Between(0, 1)] = 1.0,
    beta: Annotated[float, Between(0.1, 10)] = 1.0,
    invalid: Invalid = "count",
    duplicates: Duplicates = "count",
    labels: Labels = "ignore",
    invalid_boxes: tuple[Quad, ...] = (),
) -> float:
    """F1 in which a matched pair of boxes counts as much as its IoU (arXiv 2512.10691, section 3).

    With S the largest sum of IoU over a one-to-one matching: "symmetric" is 2 S / (n_pred + n_ref), as in figure 1;
    "released", as in the paper's code, has recall S / n_ref and precision S / (S + FP), where FP are the predictions
    that overlap no partner. An empty side gives 0.

    Args:
        variant: in the "released" one a single overlapping box has precision 1, however badly it fits.
        both_empty: value if neither side has a box, 0 to 1; the released code gives 0.
        beta: how many times recall weighs as much as precision (F-beta): below 1, surplus boxes cost more.
        invalid, duplicates, labels, invalid_boxes: see `reward_fns.boxes.compare`.

    Returns:
        0 to 1, in microseconds. Gaming: hedging pays. Where two places are equally likely (IoU 0.78 if right), both
        boxes earn 0.52 and either one 0.39 on average; with beta=0.5 both earn 0.43, and a second box pays from odds
        of 44 % instead of 33 %. One box around both (IoU 0.4) earns 0.57 under "released", 0.4 under "symmetric".

    >>> boxes = (Box(0.35, 0.51, 0.75, 0.64),), (Box(0.38, 0.47, 0.76, 0.62),)
    >>> round(box_soft_f1(*boxes), 3), round(box_soft_f1(*boxes, variant="released"), 3)
    (0.596, 0.747)
    """
    sides = compare(prediction, reference, invalid_boxes, invalid=invalid, duplicates=duplicates, labels=labels)
    if sides.empty:
        return both_empty
    matched = assign(sides.ious())
    total = float(matched.sum())
    # Precision is S / charged in both variants; "released" charges S + FP.
    charged = sides.n_predictions if variant == "symmetric" else total + sides.n_predictions - len(matched)
    weight = beta * beta
    return (1.0 + weight) * total / (charged + weight * sides.n_references)
