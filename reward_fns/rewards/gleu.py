"""GLEU of a report."""

from reward_fns.models.ngrams import count_ngrams
from reward_fns.registry import reward


@reward("gleu", task="report", range=(0.0, 1.0))
def gleu(prediction: str, reference: str) -> float:
    """Google's sentence BLEU: the n-grams of 1 to 4 words that both texts share.

    The shared n-grams (each as often as it is in both) divided by the n-grams of the longer text: the smaller of
    precision and recall. Words as in mteval-v13a, with upper and lower case kept.
    Source: arXiv 1609.08144, section 5.2; equal to `google_bleu` of Hugging Face's evaluate for one pair, the reward
    of the ablation "GLEU" in arXiv 2512.10691, table 3.

    Returns:
        0 to 1, in under a millisecond. Gaming: it rewards wording, not truth: a missing "no" is cheap, stock text pays.

    >>> round(gleu("The heart is enlarged.", "The heart is not enlarged."), 4)
    0.5
    """
    counts = count_ngrams(prediction, reference)
    longer = max(sum(counts.predicted), sum(counts.true))
    return sum(counts.shared) / longer if longer else 0.0
