"""BLEU of a report."""

from typing import Literal

from reward_fns.models.ngrams import count_ngrams
from reward_fns.registry import reward

Smoothing = Literal["exp", "floor", "add-k", "none"]


@reward("bleu", task="report", range=(0.0, 1.0))
def bleu(prediction: str, reference: str, smoothing: Smoothing = "exp") -> float:
    """Sentence BLEU: geometric mean of the precisions of 1- to 4-grams, times exp(1 - n_ref / n_pred) if too short.

    Words as in mteval-v13a, with upper and lower case kept. Orders of which the prediction has no n-gram are left out.
    Source: Papineni 2002 (aclanthology.org/P02-1040); sentence_bleu of sacrebleu (aclanthology.org/W18-6319) / 100.

    Args:
        smoothing: how an order without a match counts, as in sacrebleu: "exp" halves it from order to order, "floor"
            counts 0.1 matches, "add-k" adds 1 to matches and n-grams of the orders above 1, "none" makes it 0.

    Returns:
        0 to 1, in well under a millisecond. Gaming: it rewards wording, not truth, and additions cost little; `gleu`
        was designed to be the better reward.

    >>> round(bleu("The heart is enlarged.", "The heart is not enlarged."), 4)
    0.4094
    """
    from sacrebleu.metrics.bleu import BLEU

    shared, predicted, true = map(list, count_ngrams(prediction.rstrip(), reference.rstrip()))
    found = BLEU.compute_bleu(shared, predicted, predicted[0], true[0], smoothing, effective_order=True)
    return float(found.score) / 100
