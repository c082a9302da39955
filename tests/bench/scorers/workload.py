"""Work like that of a GRPO run, for the benchmark: groups of rollouts about the same report, some of them the same."""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass
from pathlib import Path

from reward_fns.errors import UsageError

_FINDINGS = (
    "The heart is {} in size", "There is {} left pleural effusion", "There is {} right basilar atelectasis",
    "{} pulmonary edema is seen", "A {} opacity projects over the right upper lobe", "The aorta is {} tortuous",
    "{} degenerative changes of the thoracic spine are noted", "A catheter ends {} in the superior vena cava",
    "Lung volumes are {} low", "There is {} prominence of the hila", "No {} consolidation is identified",
    "There is no {} pneumothorax", "The mediastinal contours are {} unchanged", "{} scarring is seen at the apices",
)  # fmt: skip
_DEGREES = ("mildly", "small", "moderate", "stable", "new", "likely", "no longer", "clearly", "perhaps", "increased")


@dataclass(frozen=True)
class Work:
    """What is to be scored.

    Attributes:
        pairs: prediction and reference of each rollout, epoch after epoch, group after group.
        prompts, rollouts, epochs: their number; `rollouts` is of a prompt in an epoch.
    """

    pairs: list[tuple[str, str]]
    prompts: int
    rollouts: int
    epochs: int


def invented(count: int, rng: random.Random) -> list[str]:
    """Reports that no radiologist wrote: 2 to 9 sentences each."""
    sentences = [
        [form.format(rng.choice(_DEGREES)) for form in rng.sample(_FINDINGS, rng.randint(2, 9))] for _ in range(count)
    ]
    return [" ".join(f"{text[0].upper()}{text[1:]}." for text in report) for report in sentences]


def texts_of(path: Path) -> list[str]:
    """The reports of a file: a line each, or JSON lines with the text under `report` or, as for `score`, deeper.

    Raises:
        UsageError: it can't be read, or a line has no report.
    """
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read --file {path}: {error}") from error
    texts = [_report(line, f"{path}, line {i}") if line.startswith("{") else line for i, line in enumerate(lines, 1)]
    if not texts:
        raise UsageError(f"--file {path} has no text")
    return texts


def _report(line: str, where: str) -> str:
    try:
        row = json.loads(line)
        truth = row.get("ground_truth", row)
        text = (json.loads(truth) if isinstance(truth, str) else truth)["report"]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{where}: no report: {error!r}") from error
    if not isinstance(text, str):
        raise UsageError(f"{where}: report must be a text, got {text!r}")
    return text


def make(texts: list[str], prompts: int, rollouts: int, epochs: int, duplicates: float, seed: int) -> Work:
    """The work of a run whose policy knows its reports fairly well.

    Args:
        texts: reports, from which references are drawn; too few of them are used again.
        prompts: of an epoch.
        rollouts: of a prompt. One keeps most sentences of its reference and takes others from other reports.
        epochs: how often each prompt comes.
        duplicates: share of rollouts that are exact copies of another one of their group.
        seed: the same gives the same work.

    >>> work = make(["A. B. C.", "D. E."], prompts=2, rollouts=3, epochs=2, duplicates=0.5, seed=0)
    >>> len(work.pairs), sorted({reference for _, reference in work.pairs})
    (12, ['A. B. C.', 'D. E.'])
    """
    rng = random.Random(seed)
    references = rng.sample(texts, prompts) if len(texts) >= prompts else rng.choices(texts, k=prompts)
    split = [sentences for text in texts if (sentences := _sentences(text))]
    pairs = []
    for _ in range(epochs):
        for reference in references:
            group: list[str] = []
            for _ in range(rollouts):
                if group and rng.random() < duplicates:
                    group.append(rng.choice(group))
                    continue
                own, other = _sentences(reference), rng.choice(split)
                group.append(" ".join(rng.choice(other) if rng.random() < 0.4 else sentence for sentence in own))
            pairs += [(text, reference) for text in group]
    return Work(pairs, prompts, rollouts, epochs)


def _sentences(text: str) -> list[str]:
    return re.findall(r"[^.]+(?:\.\d[^.]*)*\.?", text)
