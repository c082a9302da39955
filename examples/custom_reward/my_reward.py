"""A custom reward: does the report name the same sides as the reference?"""

import re
from collections import Counter

from reward_fns import reward

SIDES = {"left": ["left"], "right": ["right"], "both": ["left", "right"], "bilateral": ["left", "right"]}


@reward("sides", task="report", range=(0.0, 1.0))
def sides(prediction: str, reference: str, when_none: float = 1.0) -> float:
    """Agreement on left and right: the F1 score of how often each side is named.

    Args:
        prediction: the generated report.
        reference: the true report.
        when_none: the reward where neither names a side. An option: the spec can set it.

    Returns:
        0 to 1, in microseconds. Gaming: it never asks what is on that side, so give it a small weight beside a reward
        that reads the rest.

    >>> sides("There is an opacity on the left.", "There is an opacity on the right.")
    0.0
    >>> sides("Bilateral effusions.", "Effusion on the right.")
    0.6666666666666666
    """
    predicted, true = named(prediction), named(reference)
    if not predicted and not true:
        return when_none
    return 2 * (predicted & true).total() / (predicted.total() + true.total())


def named(text: str) -> Counter[str]:
    """How often a text names each side."""
    return Counter(side for word in re.findall(r"[a-z]+", text.lower()) for side in SIDES.get(word, []))
