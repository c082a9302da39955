"""BERTScore of a report."""

from collections.abc import Mapping, Sequence
from typing import Any

from reward_fns.models import bertscore as scorer
from reward_fns.models.texts import MaxChars, MinChars, score_long_pairs, shortened
from reward_fns.registry import reward


def _needs(options: Mapping[str, Any]) -> Any:
    return (scorer.source(options["model"], options["repo"], options["revision"]),)


@reward("bertscore", task="report", range=(-5.56, 1.0), batched=True, floor=0.0, needs=_needs)
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

    `reward_fns.models.bertscore` has the formula (arXiv 1904.09675, with bert-score 0.3.13's layers and baselines;
    parity is tested). The defaults are those of the ablation in arXiv 2512.10691, table 3.

    Args:
        model: read at its layer 5 of 6; "distilroberta-base" is the one inside RadCliQ.
        rescale: make 0 what unrelated English sentences score.
        lower_text: lower-case both texts first; distilbert-base-uncased does so by itself.
        max_chars: cut both texts there first; 0 for no limit.
        min_chars: if either text is then shorter, the value is 0, as for a failure of the model.
        repo, revision: hub repository, or local folder, to read the model from instead of the published one.

    Returns:
        up to 1; below 0 for texts less alike than unrelated ones, to -2.0 (distilbert-base-uncased) or -5.55
        (distilroberta-base) for one without any token; 0 to 1 without `rescale`. Cost: five layers per distinct text,
        in batches. Gaming: negation ("no effusion") is nearly free, boilerplate pays, and word order hardly counts.

    >>> rescaled = scorer.rescaled(scorer.BertScore(0.91, 0.89, 0.9), "distilbert-base-uncased")
    >>> round(rescaled.f1, 4)
    0.7004
    """
    folder = scorer.source(model, repo, revision)

    def score(long: list[str], true: list[str]) -> list[float]:
        return [pair.f1 for pair in scorer.bertscore(long, true, model=model, rescale=rescale, folder=folder)]

    ours, theirs = (shortened(side, lower_text, max_chars) for side in (predictions, references))
    return score_long_pairs(score, ours, theirs, min_chars, floor=0.0)
