import random
from collections import Counter

import pytest
from nltk.translate.gleu_score import corpus_gleu
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

from reward_fns.rewards.gleu import gleu

WORDS = ["The", "the", "heart", "not", "enlarged", ".", "No", ",", "3.5", "cm", "nodule", "/", "(right)", "1,000"]
WORDS += ["left-", "-\n", "\n", "<skipped>", "&amp;", "&quot;", ";", "\u00a0"]


def by_hand(prediction, reference):
    """Shared n-grams over the n-grams of the longer text, counted from the definition."""

    def grams(text):
        words = Tokenizer13a()(text).split()
        return Counter(tuple(words[i : i + n]) for n in (1, 2, 3, 4) for i in range(len(words) - n + 1))

    ours, theirs = grams(prediction), grams(reference)
    longer = max(ours.total(), theirs.total())
    return sum(min(count, theirs[gram]) for gram, count in ours.items()) / longer if longer else 0.0


def test_random_reports_equal_google_bleu():
    rng = random.Random(0)
    tokenizer = Tokenizer13a()
    for _ in range(300):
        prediction, reference = (" ".join(rng.choices(WORDS, k=rng.randrange(1, 30))) for _ in range(2))
        # What Hugging Face's google_bleu does with one pair.
        google = corpus_gleu([[tokenizer(reference).split()]], [tokenizer(prediction).split()], min_len=1, max_len=4)
        assert gleu(prediction, reference) == google == pytest.approx(by_hand(prediction, reference), abs=1e-15)


@pytest.mark.parametrize(
    ("prediction", "reference", "value"),
    [
        ("Clear lungs.", "Clear lungs.", 1.0),
        ("Clear lungs.", "clear lungs.", 3 / 6),  # "lungs", "." and the two together, of 6 n-grams
        ("a", "b", 0.0),
        ("a a a", "a", 1 / 6),
    ],
)
def test_values_by_hand(prediction, reference, value):
    assert gleu(prediction, reference) == pytest.approx(value)


@pytest.mark.parametrize("text", ["\ud800", "\u202e\u0000", "x" * 100_000, "&lt;", "<skipped>"])
def test_odd_texts(text):
    assert 0.0 <= gleu(text, "Clear lungs.") < 1.0
