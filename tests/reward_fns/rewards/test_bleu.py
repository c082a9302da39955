import math
import random

import pytest
from sacrebleu.metrics.bleu import BLEU

from reward_fns.rewards.bleu import bleu


@pytest.mark.parametrize(
    ("prediction", "reference", "value"),
    [
        ("Clear lungs.", "Clear lungs.", 1.0),
        ("a b c d e", "a b c d x", (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25),
        ("a b c d", "a b c d e f", math.exp(1 - 6 / 4)),  # too short
        ("a b", "a b", 1.0),  # it has no n-grams of 3 and 4 words
        ("a", "b", 0.0),
        ("", "b", 0.0),
    ],
)
def test_values_by_hand(prediction, reference, value):
    assert bleu(prediction, reference) == pytest.approx(value)


@pytest.mark.parametrize(
    ("smoothing", "last"),
    [("exp", (1 / 2 / 2, 1 / 4)), ("floor", (0.1 / 2, 0.1)), ("add-k", (1 / 3, 1 / 2)), ("none", None)],
)
def test_smoothing(smoothing, last):
    # of "a b c d" are in "a b x c y d" all words, one of three pairs, none of two triples, not the one quadruple
    pairs = 2 / 4 if smoothing == "add-k" else 1 / 3
    value = (pairs * last[0] * last[1]) ** 0.25 * math.exp(1 - 6 / 4) if last else 0.0
    assert bleu("a b c d", "a b x c y d", smoothing=smoothing) == pytest.approx(value)


def test_random_reports_equal_sacrebleu():
    rng = random.Random(0)
    pieces = ["The", "heart", " ", " ", "3.5", "cm", ".", ",", "-", "-\n", "\n", "<skipped>", "&amp;", "/", "\u00a0"]
    for _ in range(300):
        prediction, reference = ("".join(rng.choices(pieces, k=rng.randrange(1, 40))) for _ in range(2))
        found = bleu(prediction, reference)
        expected = BLEU(effective_order=True).sentence_score(prediction, [reference]).score / 100
        assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("text", ["\ud800", "\u202e\u0000", "x" * 100_000, "x " * 50_000, " \n"])
def test_odd_texts(text):
    assert 0.0 <= bleu(text, "Clear lungs.") < 1.0
