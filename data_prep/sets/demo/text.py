"""Phrases and reports for the demo films: a small vocabulary, every sentence true of the film it goes with."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml

from data_prep.sets.demo.findings import EFFUSION, HEART, KINDS, LINE, NODULE, OPACITY, PACEMAKER, PNEUMOTHORAX, Finding

_WORDINGS = yaml.safe_load(Path(__file__).with_name("wordings.yaml").read_text(encoding="utf-8"))


def phrase(kind: str, findings: Sequence[Finding]) -> str:
    """What a grounding question asks for, given the film's findings of the kind.

    "right pleural effusion", "nodule in the left mid lung zone"; bilateral disease, and several lesions asked for at
    once, have no place.
    """
    if len(findings) == 1 and findings[0].zone:
        return f"{kind} in the {findings[0].side} {findings[0].zone} lung zone"
    sides = {f.side for f in findings}
    return f"{sides.pop()} {kind}" if kind in (EFFUSION, PNEUMOTHORAX, PACEMAKER) and len(sides) == 1 else kind


def report(findings: Sequence[Finding], rng: np.random.Generator) -> str:
    """Two to six short sentences: positives with their place, negatives for what is absent; `rng` chooses the words."""

    def pick(sentence: str, finding: Finding | None = None) -> str:
        # Half of the sentences are in the house style, the first wording; the others as their reader likes.
        house, *others = _WORDINGS[sentence]
        wording = house if rng.random() < 0.5 else others[int(rng.integers(len(others)))]
        said: str = wording.format(f=finding)
        return said[0].upper() + said[1:]

    ordered = sorted(findings, key=lambda f: (f.side == "left", f.y))
    of = {kind: [f for f in ordered if f.kind == kind] for kind in KINDS}
    fluid, air = of[EFFUSION], of[PNEUMOTHORAX]
    # Sentences are drawn in this order, which need not be their order in the report.
    parts = [
        [pick(HEART if of[HEART] else "normal heart")],
        [pick(f.kind, f) for f in of[OPACITY] + of[NODULE]] or [pick("clear lungs")],
        [
            pick("two effusions" if len(fluid) == 2 else EFFUSION if fluid else "no effusion", *fluid[:1]),
            pick(PNEUMOTHORAX if air else "no pneumothorax", *air),
        ]
        if fluid or air
        else [pick("clear pleura")],
        [pick(f.kind, f) for f in of[PACEMAKER] + of[LINE]],
    ]
    if rng.random() >= 0.7:
        parts[:2] = parts[1::-1]
    return " ".join(sentence for part in parts for sentence in part)
