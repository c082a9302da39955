"""Find the answer in a model's output."""

from __future__ import annotations

import re
from typing import Literal

ThinkEnd = Literal["first", "last"]
_LAST = "</think>"
_FIRST = re.compile(_LAST, re.IGNORECASE)


def extract_answer(text: str, *, thinking: bool, think_end: ThinkEnd = "last") -> str | None:
    """The answer in a model's output, or None if it gave none.

    Args:
        text: the output.
        thinking: whether the model was to think first; the answer is then what follows "</think>", and without that
            tag there is no answer. Otherwise all of the text is the answer.
        think_end: which "</think>" counts if there are several: the "last", as the released code of arXiv 2512.10691
            does for reports, or the "first", as it does for boxes, where upper case ("</THINK>") counts too.

    Returns:
        the answer without surrounding white space; None, a failure of the model, if that is empty.

    >>> extract_answer("<think>a mass?</think> No mass.", thinking=True)
    'No mass.'
    >>> extract_answer("<think>a mass?", thinking=True) is None
    True
    """
    if thinking and think_end == "first":
        tag = _FIRST.search(text)
        text = text[tag.end() :] if tag else ""
    elif thinking:
        _, tag_found, after = text.rpartition(_LAST)
        text = after if tag_found else ""
    return text.strip() or None
