"""ROUGE-L of a report."""

import re
from collections import defaultdict

from reward_fns.registry import reward


@reward("rouge_l", task="report", range=(0.0, 1.0))
def rouge_l(prediction: str, reference: str) -> float:
    """ROUGE-L: F1 of the longest common subsequence of L words: 2 L / (words of prediction + words of reference).

    0 if there is none. Words are runs of letters a-z and digits, in lower case.
    Source: Lin 2004 (aclanthology.org/W04-1013), section 3.1; equal to rouge-score 0.1.2 without stemming (parity is
    tested), the R-L of arXiv 2512.10691, table 1.

    Returns:
        0 to 1, in under a millisecond. Gaming: it rewards wording and order, not truth: a missing "no" costs little.

    >>> round(rouge_l("The heart is enlarged.", "The heart is not enlarged."), 4)
    0.8889
    """
    words, others = (re.findall("[a-z0-9]+", text.lower()) for text in (prediction, reference))
    # One row of the usual table is a number whose bit i is 0 where the row grows at i, so that a step takes one
    # addition (Hyyrö 2004, "Bit-parallel LCS-length computation revisited"): long texts take milliseconds.
    positions: dict[str, int] = defaultdict(int)
    for i, word in enumerate(words):
        positions[word] |= 1 << i
    full = (1 << len(words)) - 1
    row = full
    for word in others:
        hits = row & positions.get(word, 0)
        row = ((row + hits) | (row - hits)) & full
    common = (full & ~row).bit_count()
    return 2 * common / (len(words) + len(others)) if common else 0.0
