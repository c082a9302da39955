"""Prepare the texts of report rewards that read with a model."""

from collections.abc import Callable, Iterator, Sequence
from typing import Annotated

from reward_fns.engine.cache import Found
from reward_fns.settings import Between

MaxChars = Annotated[int, Between(0, 1_000_000_000)]
"""Option: characters at which a text is cut; 0 for no limit."""
MinChars = Annotated[int, Between(0, 1_000_000)]
"""Option: characters below which a text counts as a failure of the model."""


def shortened(texts: Sequence[str], lower: bool, max_chars: int) -> list[str]:
    """Texts as the released code of arXiv 2512.10691 gives them to its scorers: cut (0: not at all), then lower-cased.

    >>> shortened(["No mass."], lower=True, max_chars=4)
    ['no m']
    """
    cut = (text[: max_chars or None] for text in texts)
    return [text.lower() if lower else text for text in cut]


def paired(found: Sequence[Found]) -> Iterator[tuple[Found, Found]]:
    """Pair what was found in predictions, which come first, with what was found in as many references."""
    return zip(found[: len(found) // 2], found[len(found) // 2 :], strict=True)


def score_long_pairs(
    score: Callable[[list[str], list[str]], Sequence[float]],
    predictions: Sequence[str],
    references: Sequence[str],
    min_chars: int,
    floor: float,
) -> list[float]:
    """Scores of the pairs whose texts both have at least `min_chars` characters; the floor for the others.

    >>> score_long_pairs(lambda ours, theirs: [1.0] * len(ours), ["None.", "No mass."], ["No mass."] * 2, 6, -3.0)
    [-3.0, 1.0]
    """
    pairs = zip(predictions, references, strict=True)
    long = [i for i, pair in enumerate(pairs) if min(map(len, pair)) >= min_chars]
    scores = [floor] * len(predictions)
    for i, value in zip(long, score([predictions[i] for i in long], [references[i] for i in long]), strict=True):
        scores[i] = value
    return scores
