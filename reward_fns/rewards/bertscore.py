"""BERTScore of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from reward_fns.models import bertscore as scorer
from reward_fns.models.weights import HubFolder
from reward_fns.registry import Between, reward

MaxChars = Annotated[int, Between(0, 1_000_000_000)]
MinChars = Annotated[int, Between(0, 1_000_000)]
_FLOOR = 0.0


def needs(options: Mapping[str, Any]) -> tuple[HubFolder]:
    """The weight files of this reward."""
    return (scorer.source(options["model"], options["repo"], options["revision"]),)


def shortened(texts: Sequence[str], lower: bool, max_chars: int) -> list[str]:
    """Texts as arXiv 2512.10691's code gives them to its scorers: cut (0: not at all), then in lower case.

    >>> shortened(["No mass."], lower=True, max_chars=4)
    ['no m']
    """
    cut = (text[: max_chars or None] for text in texts)
    return [text.lower() if lower else text for text in cut]


@reward("bertscore", task="report", range=(-5.56, 1.0), batched=True, floor=_FLOOR, needs=needs)
def bertscore(
    predictions: Sequence[str],
    references: Sequence[str],
    model: scorer.Model = "distilbert-base-uncased",
    rescale: bool = True,
    lower_text: bool = True,
    max_chars: MaxChars = 2048,
    min_chars: MinChars = 6,
    repo: str = "",
    revision: str = "main",
) -> list[float]:
    """F1 of BERTScore: how well the words of two texts match as a language model sees them.

    See `reward_fns.models.bertscore` for the formula. The defaults are those of the ablation in arXiv 2512.10691;
    "distilroberta-base" is the model inside RadCliQ.

    Args:
        predictions: the generated reports.
        references: the true reports.
        model: read at its layer 5 of 6.
        rescale: make 0 what unrelated English sentences score.
        lower_text: lower-case both texts first; distilbert-base-uncased does so by itself.
        max_chars: cut both texts there first; 0 for no limit.
        min_chars: if either text is then shorter, the value is 0, as for a failure of the model.
        repo: hub repository, or local folder, to read the model from instead of the published one.
        revision: of that repository.

    Returns:
        up to 1; below 0 for texts less alike than unrelated ones, down to -2.0 (distilbert-base-uncased) or -5.55
        (distilroberta-base) for a text without any token; 0 to 1 without `rescale`. Cost: a pass of five
        layers per distinct text, in batches. Gaming: negation is nearly free ("no effusion" for "effusion"), normal
        boilerplate pays, and the places of words hardly count.

    Source: arXiv 1904.09675, with bert-score 0.3.13's layers and baselines (parity is tested); arXiv 2512.10691,
    table 3.

    >>> rescaled = scorer.rescaled(scorer.BertScore(0.91, 0.89, 0.9), "distilbert-base-uncased")
    >>> round(rescaled.f1, 4)
    0.7004
    """
    ours, theirs = (shortened(texts, lower_text, max_chars) for texts in (predictions, references))
    long = [min(len(a), len(b)) >= min_chars for a, b in zip(ours, theirs, strict=True)]
    scores = iter(
        scorer.bertscore(
            [text for text, enough in zip(ours, long, strict=True) if enough],
            [text for text, enough in zip(theirs, long, strict=True) if enough],
            model=model, rescale=rescale, folder=scorer.source(model, repo, revision),
        )
    )  # fmt: skip
    return [next(scores).f1 if enough else _FLOOR for enough in long]
