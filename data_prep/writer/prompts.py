"""Questions and gold answers, in wordings of our own, for any box convention."""

from data_prep.sample import KINDS, Sample, stable_hash
from reward_fns.conventions import get_convention

_QUESTIONS = {
    "findings": (
        "Write a report of this chest X-ray.",
        "Report the findings on this chest film.",
        "What does this chest X-ray show? Write the report.",
        "Read this frontal chest film and write down your findings.",
    ),
    "impression": (
        "Write the impression of this chest X-ray.",
        "Give your overall impression of this chest film.",
        "What do you conclude from this chest X-ray? Write the impression.",
        "Read this frontal chest film and sum it up in an impression.",
        "Which impression does this chest film leave? Write it as in a report.",
        "State in short what matters on this chest X-ray.",
    ),
    "report": (
        "Write a full report of this chest X-ray, findings and impression.",
        "Report this chest film: first the findings, then the impression.",
        "Read this chest X-ray and write its findings and your impression.",
        "Describe this frontal chest film and conclude with an impression.",
        "Compose the complete report of this chest film: what is seen, then what follows from it.",
        "Dictate findings and impression of this frontal chest X-ray.",
    ),
    "finding": (
        "Locate the {phrase} on this chest X-ray.",
        "Find the {phrase} and give its position.",
        "Mark the {phrase} on this film.",
        "Box the following finding: {phrase}.",
    ),
    "anatomy": (
        "Where is the {phrase} on this chest X-ray?",
        "Give the position of this anatomical structure: {phrase}.",
        "Outline the {phrase} with a box.",
        "Locate this region of the chest film: {phrase}.",
        "Which part of this film does the {phrase} take up?",
        "Draw a box around the {phrase}.",
        "Name the place of the {phrase} on this chest film.",
        "On this chest X-ray, mark the {phrase}.",
    ),
    "abnormality": (
        "Where do you see {phrase} on this chest X-ray?",
        "Box every sign of {phrase}.",
        "Does this film show {phrase}? Give each place.",
        "Locate this abnormality: {phrase}.",
        "Mark all {phrase} on this film.",
        "Is there {phrase} on this chest X-ray, and where?",
        "Show each region with {phrase}.",
        "Search this chest film for {phrase} and box it.",
    ),
    "phrase": (
        "Which part of this chest X-ray does this describe? {phrase}",
        "Locate what this sentence of a report speaks of: {phrase}",
        "Box the place of the following observation: {phrase}",
        "Where on this film is this seen? {phrase}",
        "A report of this film says the following. Where is it? {phrase}",
        "Mark the region that fits this description: {phrase}",
        "Find on this chest X-ray what is described here: {phrase}",
        "To which region of the film does this refer? {phrase}",
    ),
    "detection": (
        "Find every abnormality on this chest X-ray and name each.",
        "Box all abnormal findings on this film, with their names.",
        "Detect and name the abnormalities of this chest film.",
        "List the place and name of each abnormality that you see.",
        "Which abnormalities does this film show, and where is each of them?",
        "Go through this chest X-ray and box whatever is not normal, naming it.",
        "Name and locate everything abnormal on this chest film.",
        "Mark each pathological finding of this chest X-ray and say what it is.",
    ),
}
_REPORT_HINTS = {
    "findings": "Answer with the findings alone: one paragraph of plain text, without headings or lists.",
    "impression": "Answer with the impression alone: one paragraph of plain text, without headings or lists.",
    "report": 'Answer in plain text without lists, as "Findings: ... Impression: ...".',
}
_NOTHING_THERE = "There is no such finding."
_NOTHING_FOUND = "There is no abnormality."


def render(
    sample: Sample, box_format: str, frame: tuple[int, int], *, thinking: bool = False, format_hint: bool = False
) -> tuple[str, str]:
    """Question (without the image tag) and gold answer of a sample that is no conversation.

    The wording is chosen by a hash of the sample's id, so it never changes between runs or machines.

    Args:
        sample: what to ask about.
        box_format: name of the box convention, e.g. "radvlm".
        frame: width and height that the convention's coordinates refer to (`Convention.frame`).
        thinking: append " /think", which asks for a reasoning trace, as the data script released with
            arXiv 2512.10691 does.
        format_hint: append a description of the answer format, for models that were never tuned on it: of the boxes
            in this convention, or of the part of a report that is asked for.

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
        nothing = _NOTHING_FOUND if named else _NOTHING_THERE
        answer = convention.render(sample.boxes, frame, named=named) if sample.boxes else nothing
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
