"""Questions and gold answers, in wordings of our own, for any box convention."""

from __future__ import annotations

from data_prep.sample import Sample, stable_hash
from reward_fns.conventions import get_convention

_QUESTIONS = {
    "report": (
        "Write a report of this chest X-ray.",
        "Report the findings on this chest film.",
        "What does this chest X-ray show? Write the report.",
        "Read this frontal chest film and write down your findings.",
    ),
    "grounding": (
        "Locate the {phrase} on this chest X-ray.",
        "Find the {phrase} and give its position.",
        "Mark the {phrase} on this film.",
        "Box the following finding: {phrase}.",
    ),
}
_NOTHING_THERE = "There is no such finding."


def render(
    sample: Sample, box_format: str, frame: tuple[int, int], *, thinking: bool = False, format_hint: bool = False
) -> tuple[str, str]:
    """Question (without the image tag) and gold answer of a sample.

    The wording is chosen by a hash of the sample's id, so it never changes between runs or machines.

    Args:
        sample: what to ask about.
        box_format: name of the box convention, e.g. "radvlm".
        frame: width and height that the convention's coordinates refer to (`Convention.frame`).
        thinking: append " /think", which asks for a reasoning trace, as the data script released with
            arXiv 2512.10691 does.
        format_hint: append the convention's one-sentence description of the answer format, for models that were
            never tuned on it.

    Raises:
        UsageError: for an unknown convention.
    """
    convention = get_convention(box_format)
    wordings = _QUESTIONS[sample.task]
    question = wordings[stable_hash(sample.id) % len(wordings)]
    if sample.task == "report":
        answer = sample.report or ""
    else:
        question = question.format(phrase=sample.phrase)
        answer = convention.render(sample.boxes, frame) if sample.boxes else _NOTHING_THERE
        if format_hint:
            question = f"{question} {convention.hint}"
    return question + (" /think" if thinking else ""), answer
