"""Phrases and reports for the demo films: a small vocabulary, every sentence true of the film it goes with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from data_prep.sets.demo.findings import EFFUSION, HEART, LINE, NODULE, OPACITY, PACEMAKER, PNEUMOTHORAX, SIDES, Finding

_SIDED = (EFFUSION, PNEUMOTHORAX, PACEMAKER)
_PLURAL = {EFFUSION: "pleural effusions", PNEUMOTHORAX: "pneumothoraces"}


def phrase(kind: str, findings: Sequence[Finding]) -> str:
    """What a grounding question asks for: "right pleural effusion", "nodule in the left mid lung zone".

    Bilateral disease, and several lesions asked for at once, have no place.

    Args:
        kind: the finding kind asked for.
        findings: the film's findings of that kind, at least one.
    """
    if len(findings) == 1 and findings[0].zone:
        return f"{kind} in the {findings[0].side} {findings[0].zone} lung zone"
    sides = {f.side for f in findings}
    return f"{sides.pop()} {kind}" if kind in _SIDED and len(sides) == 1 else kind


def _by_side(findings: Sequence[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda f: (SIDES.index(f.side), f.y))


def report(findings: Sequence[Finding], rng: np.random.Generator) -> str:
    """A report of two to six short sentences: positives with their place, negatives for what is absent.

    Args:
        findings: everything on the film.
        rng: chooses wording and order.
    """

    def pick(*wordings: str) -> str:
        # Half of the sentences are in the house style, the first wording; the others as their reader likes.
        return wordings[0] if rng.random() < 0.5 else wordings[1 + int(rng.integers(len(wordings) - 1))]

    present = {f.kind for f in findings}
    heart = (
        pick("The heart is enlarged.", "The heart size is increased.", "Cardiomegaly.", "Large cardiac silhouette.")
        if HEART in present
        else pick("The heart size is normal.", "The heart is not enlarged.", "No cardiomegaly.", "Normal heart.")
    )
    lungs = [
        pick(f"There is {_article(f.kind)} {f.kind} in the {f.side} {f.zone} lung zone.",
             f"{_article(f.kind).capitalize()} {f.kind} is seen in the {f.side} {f.zone} lung zone.",
             f"The {f.side} {f.zone} lung zone shows {_article(f.kind)} {f.kind}.",
             f"{f.side.capitalize()} {f.zone} zone {f.kind}.")
        for kind in (OPACITY, NODULE)
        for f in _by_side([f for f in findings if f.kind == kind])
    ] or [
        pick("The lungs are clear.", "No opacity or nodule is seen.", "Clear lungs.", "Both lungs are well aerated.")
    ]  # fmt: skip
    pleura = _pleura(findings, pick)
    devices = [
        pick(f"A {f.side} pacemaker is in place.", f"There is a {f.side} pacemaker.", f"Pacemaker on the {f.side}.")
        for f in findings
        if f.kind == PACEMAKER
    ]
    devices += [
        pick("A central line is in place.", "There is a central line.", "Central line present.")
        for f in findings
        if f.kind == LINE
    ]
    parts = [[heart], lungs] if rng.random() < 0.7 else [lungs, [heart]]
    return " ".join(sentence for part in [*parts, pleura, devices] for sentence in part)


def _pleura(findings: Sequence[Finding], pick: Callable[..., str]) -> list[str]:
    fluid = [f.side for f in _by_side([f for f in findings if f.kind == EFFUSION])]
    air = [f.side for f in findings if f.kind == PNEUMOTHORAX]
    if not fluid and not air:
        return [
            pick(
                "No pleural effusion or pneumothorax.",
                "There is no pneumothorax or pleural effusion.",
                "The pleural spaces are normal.",
                "Neither effusion nor pneumothorax.",
            )
        ]
    sentences = []
    if len(fluid) == 2:
        sentences.append(
            pick(
                "There are bilateral pleural effusions.",
                "Bilateral pleural effusions are seen.",
                "Both sided effusions.",
            )
        )
    elif fluid:
        sentences.append(
            pick(
                f"There is a {fluid[0]} pleural effusion.",
                f"A {fluid[0]} pleural effusion is seen.",
                f"Pleural effusion on the {fluid[0]}.",
            )
        )
    else:
        sentences.append(pick("No pleural effusion.", "There is no pleural effusion.", "No fluid."))
    if air:
        sentences.append(
            pick(
                f"There is a {air[0]} pneumothorax.",
                f"A {air[0]} pneumothorax is seen.",
                f"Pneumothorax on the {air[0]}.",
            )
        )
    else:
        sentences.append(pick("No pneumothorax.", "There is no pneumothorax.", "No sign of pneumothorax."))
    return sentences


def _article(kind: str) -> str:
    return "an" if kind[0] in "aeio" else "a"
