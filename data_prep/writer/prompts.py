"""Questions and gold answers, in wordings of our own, for any box convention."""

from importlib.resources import files

import yaml

from data_prep.sample import KINDS, Sample, stable_hash
from reward_fns.conventions import get_convention

_QUESTIONS: dict[str, list[str]] = yaml.safe_load((files(__package__) / "questions.yaml").read_text(encoding="utf-8"))
_REPORT_HINTS = {
    "findings": "Answer with the findings alone: one paragraph of plain text, without headings or lists.",
    "impression": "Answer with the impression alone: one paragraph of plain text, without headings or lists.",
    "report": 'Answer in plain text without lists, as "Findings: ... Impression: ...".',
}
_NOTHING = {False: "There is no such finding.", True: "There is no abnormality."}  # named: every abnormality is asked


def render(
    sample: Sample, box_format: str, frame: tuple[int, int], *, thinking: bool = False, format_hint: bool = False
) -> tuple[str, str]:
    """Question (without the image tag) and gold answer of a sample that is no conversation.

    The wording is chosen by a hash of the sample's id, so it never changes between runs or machines.

    `frame` holds the width and height that the coordinates of `box_format` refer to (`Convention.frame`). `thinking`
    appends " /think", which asks for a reasoning trace, as the data script released with arXiv 2512.10691 does.
    `format_hint` describes the answer format, for models that were never tuned on it.

    Raises:
        UsageError: for an unknown convention.
    """
    convention = get_convention(box_format)
    kind = sample.kind or KINDS[sample.task][0]
    wordings = _QUESTIONS[kind]
    question = sample.question or wordings[stable_hash(sample.id) % len(wordings)].format(phrase=sample.phrase)
    named = kind == "detection"
    if sample.task == "report":
        answer, hint = sample.report or "", _REPORT_HINTS[kind]
    else:
        answer = convention.render(sample.boxes, frame, named=named) if sample.boxes else _NOTHING[named]
        hint = convention.describe(named=named)
    if sample.indication or sample.prior or sample.lateral:
        question = _context(sample) + question
    if format_hint:
        question = f"{question} {hint}"
    return question + (" /think" if thinking else ""), sample.answer or answer


def _context(sample: Sample) -> str:
    """What a report's question says first: which view the second image is, the indication, the previous report."""
    lines = ["The first image is the frontal view, the second the lateral view."] if sample.lateral else []
    if indication := " ".join(sample.indication.split()):
        lines.append(f"Indication for this examination: {indication}")
    if prior := " ".join(sample.prior.split()):
        lines.append(f"Report of the previous examination: {prior}")
    return "\n".join([*lines, ""])
