"""Where the answer is in what a model wrote."""

from __future__ import annotations

from typing import Literal

ThinkEnd = Literal["first", "last"]
_END = "</think>"


def extract_answer(text: str, *, thinking: bool, think_end: ThinkEnd = "last") -> str | None:
    """The answer in a model's output, or None if it gave none.

    Args:
        text: the whole output.
        thinking: whether the model was to think first; the answer is then what follows "</think>", and without that
            tag there is no answer. Otherwise the whole text is the answer.
        think_end: which "</think>" counts if there are several: the "last" (as arXiv 2512.10691 does for reports),
            or the "first" (as it does for boxes).

    Returns:
        the answer without surrounding white space; None, a failure of the model, if that is empty.

    >>> extract_answer("<think>a mass?</think> No mass.", thinking=True)
    'No mass.'
    >>> extract_answer("<think>a mass?", thinking=True) is None
    True
    """
    if thinking:
        _, tag, after = text.partition(_END) if think_end == "first" else text.rpartition(_END)
        text = after if tag else ""
    return text.strip() or None
