"""The soft penalty of DAPO for outputs that come near the length limit."""

from typing import Annotated

from reward_fns.errors import UsageError
from reward_fns.registry import Between, reward


@reward("overlong", task="any", range=(-1.0, 0.0))
def overlong(
    prediction: str,
    reference: str,
    limit: Annotated[int, Between(1, 10_000_000)] = 4000,
    buffer: Annotated[int, Between(1, 10_000_000)] = 1000,
    output: str = "",
) -> float:
    """0 up to limit - buffer characters of output, from there falling linearly to -1 at the limit, and -1 beyond.

    Source: arXiv 2503.14476, section 3.4, equation 13, with characters in place of tokens, which verl does not pass to
    a reward function. (verl's own reward manager `dapo` counts tokens.)

    Args:
        limit: characters from which the penalty is full. Set it a little below what the response length in tokens
            allows (English has about 4 characters a token): an output that was cut off should have reached it.
        buffer: characters over which the penalty sets in, at most the limit.

    Returns:
        -1 to 0, in less than a microsecond; also -1, its floor, if there is no answer, as when thoughts were cut off.
        Gaming: any short output earns 0; the weight is what a full-length output costs.

    >>> [overlong("", "", limit=400, buffer=100, output="x" * n) for n in (300, 350, 400, 9000)]
    [0.0, -0.5, -1.0, -1.0]
    """
    if buffer > limit:
        raise UsageError(f"overlong: buffer={buffer} must be at most limit={limit}")
    return min(0.0, max(-1.0, (limit - buffer - len(output)) / buffer))
