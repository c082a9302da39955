"""Batches of sequences of similar length."""

import math
from collections.abc import Iterator, Sequence


def batches(lengths: Sequence[int], tokens: int, spread: float = math.inf) -> Iterator[list[int]]:
    """Indices of all sequences in batches of similar length, so that little of a batch is padding.

    Args:
        lengths: of the sequences, in tokens.
        tokens: largest number of tokens in a batch, with padding; a sequence longer than that comes alone.
        spread: largest ratio of a batch's longest sequence to its shortest, give or take a token.

    >>> list(batches([9, 2, 3, 2], tokens=6))
    [[1, 3], [2], [0]]
    >>> list(batches([9, 2, 3, 30], tokens=99, spread=2))
    [[1, 2], [0], [3]]
    """
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and ((len(batch) + 1) * lengths[i] > tokens or lengths[i] > lengths[batch[0]] * spread + 1):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
