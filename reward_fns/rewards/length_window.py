"""Whether a report has about the length of the reference."""

from typing import Annotated

from reward_fns.errors import UsageError
from reward_fns.registry import Between, reward


@reward("length_window", task="report", range=(0.0, 1.0))
def length_window(
    prediction: str,
    reference: str,
    low: Annotated[float, Between(0.01, 100)] = 0.8,
    high: Annotated[float, Between(0.01, 100)] = 1.25,
) -> float:
    """1 while the report has about as many words as the true one, less the further it is off.

    With r its words over those of the true one: r / low below the window, 1 from low to high, high / r above it.
    Source: own. Rewards that count entities shrink reports: in arXiv 2512.10691, table 3, training on RadGraph F1
    alone takes them from 207 characters to 93.

    Args:
        low, high: ends of the window, low <= high.

    Returns:
        0 to 1, in microseconds. Gaming: any words of the right number earn all of it; use it only beside a reward for
        content, with a small weight or 0 to watch.

    >>> [round(length_window("word " * n, "word " * 20), 2) for n in (8, 16, 25, 50)]
    [0.5, 1.0, 1.0, 0.5]
    """
    if low > high:
        raise UsageError(f"length_window: the window from low={low} to high={high} is empty")
    ratio = len(prediction.split()) / max(1, len(reference.split()))
    return min(1.0, ratio / low, high / max(ratio, high))
