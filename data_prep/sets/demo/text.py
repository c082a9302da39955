"""Phrases and reports for the demo films: a small vocabulary, every sentence true of the film it goes with."""

from collections.abc import Sequence

import numpy as np

from data_prep.sets.demo.findings import EFFUSION, HEART, LINE, NODULE, OPACITY, PACEMAKER, PNEUMOTHORAX, SIDES, Finding

_SIDED = (EFFUSION, PNEUMOTHORAX, PACEMAKER)
# Wordings of each sentence, the house style first.
_LARGE_HEART = ("The heart is enlarged.", "The heart size is increased.", "Cardiomegaly.", "Large cardiac silhouette.")
_NORMAL_HEART = ("The heart size is normal.", "The heart is not enlarged.", "No cardiomegaly.", "Normal heart.")
_CLEAR_LUNGS = ("The lungs are clear.", "No opacity or nodule is seen.", "Clear lungs.", "Both lungs are well aerated.")
_CLEAR_PLEURA = (
    *("No pleural effusion or pneumothorax.", "There is no pneumothorax or pleural effusion."),
    *("The pleural spaces are normal.", "Neither effusion nor pneumothorax."),
)
_EFFUSIONS = (
    "There are bilateral pleural effusions.",
    "Bilateral pleural effusions are seen.",
    "Both sided effusions.",
)
_EFFUSION = ("There is a {} pleural effusion.", "A {} pleural effusion is seen.", "Pleural effusion on the {}.")
_NO_EFFUSION = ("No pleural effusion.", "There is no pleural effusion.", "No fluid.")
_PNEUMOTHORAX = ("There is a {} pneumothorax.", "A {} pneumothorax is seen.", "Pneumothorax on the {}.")
_NO_PNEUMOTHORAX = ("No pneumothorax.", "There is no pneumothorax.", "No sign of pneumothorax.")
_PACEMAKER = ("A {} pacemaker is in place.", "There is a {} pacemaker.", "Pacemaker on the {}.")
_LINE = ("A central line is in place.", "There is a central line.", "Central line present.")


def phrase(kind: str, findings: Sequence[Finding]) -> str:
    """What a grounding question asks for, given the film's findings of the kind.

    "right pleural effusion", "nodule in the left mid lung zone"; bilateral disease, and several lesions asked for at
    once, have no place.
    """
    if len(findings) == 1 and findings[0].zone:
        return f"{kind} in the {findings[0].side} {findings[0].zone} lung zone"
    sides = {f.side for f in findings}
    return f"{sides.pop()} {kind}" if kind in _SIDED and len(sides) == 1 else kind


def _by_side(findings: Sequence[Finding], kind: str) -> list[Finding]:
    return sorted((f for f in findings if f.kind == kind), key=lambda f: (SIDES.index(f.side), f.y))


def report(findings: Sequence[Finding], rng: np.random.Generator) -> str:
    """Two to six short sentences: positives with their place, negatives for what is absent; `rng` chooses the words."""

    def pick(*wordings: str) -> str:
        # Half of the sentences are in the house style, the first wording; the others as their reader likes.
        return wordings[0] if rng.random() < 0.5 else wordings[1 + int(rng.integers(len(wordings) - 1))]

    # Sentences are drawn in this order, which need not be their order in the report.
    parts = [
        [pick(*(_LARGE_HEART if any(f.kind == HEART for f in findings) else _NORMAL_HEART))],
        [
            pick(
                f"There is {_article(f.kind)} {f.kind} in the {f.side} {f.zone} lung zone.",
                f"{_article(f.kind).capitalize()} {f.kind} is seen in the {f.side} {f.zone} lung zone.",
                f"The {f.side} {f.zone} lung zone shows {_article(f.kind)} {f.kind}.",
                f"{f.side.capitalize()} {f.zone} zone {f.kind}.",
            )
            for kind in (OPACITY, NODULE)
            for f in _by_side(findings, kind)
        ]
        or [pick(*_CLEAR_LUNGS)],
        [pick(*wordings) for wordings in _pleura(findings)],
        [pick(*(w.format(f.side) for w in _PACEMAKER)) for f in findings if f.kind == PACEMAKER]
        + [pick(*_LINE) for f in findings if f.kind == LINE],
    ]
    if rng.random() >= 0.7:
        parts[:2] = parts[1::-1]
    return " ".join(sentence for part in parts for sentence in part)


def _pleura(findings: Sequence[Finding]) -> list[tuple[str, ...]]:
    """The wordings of each sentence about fluid and air."""
    fluid = [f.side for f in _by_side(findings, EFFUSION)]
    air = [f.side for f in findings if f.kind == PNEUMOTHORAX]
    if not fluid and not air:
        return [_CLEAR_PLEURA]
    effusion = _EFFUSIONS if len(fluid) == 2 else _EFFUSION if fluid else _NO_EFFUSION
    pneumothorax = _PNEUMOTHORAX if air else _NO_PNEUMOTHORAX
    return [tuple(w.format(*sides) for w in said) for said, sides in ((effusion, fluid), (pneumothorax, air))]


def _article(kind: str) -> str:
    return "an" if kind[0] in "aeio" else "a"
