import random

import pytest

from reward_fns.rewards.rouge_l import rouge_l


def longest(a, b):
    """Length of the longest common subsequence, from the definition."""
    row = [0] * (len(b) + 1)
    for x in a:
        last = 0
        for j, y in enumerate(b):
            last, row[j + 1] = row[j + 1], last + 1 if x == y else max(row[j + 1], row[j])
    return row[-1]


def test_random_texts_by_the_definition():
    rng = random.Random(0)
    for _ in range(300):
        a, b = (rng.choices("abcd", k=rng.randrange(1, 40)) for _ in range(2))
        assert rouge_l(" ".join(a), " ".join(b)) == pytest.approx(2 * longest(a, b) / (len(a) + len(b)), abs=1e-12)


@pytest.mark.parametrize(
    ("prediction", "reference", "value"),
    [
        ("Clear lungs.", "clear LUNGS", 1.0),
        ("lungs clear", "clear lungs", 0.5),
        ("no effusion", "no left effusion", 4 / 5),
        ("3.5cm", "3 5cm", 1.0),
        ("", "lungs", 0.0),
        ("\u4e2d\u6587 !", "\u4e2d\u6587 !", 0.0),  # no word of letters a-z or digits
        ("\ud800 \u202elungs\u0000", "lungs", 1.0),
    ],
)
def test_values_by_hand(prediction, reference, value):
    assert rouge_l(prediction, reference) == pytest.approx(value)


def test_long_texts_take_no_time():
    assert rouge_l("a b " * 25_000, "b a " * 25_000) == pytest.approx(1 - 1 / 50_000)
