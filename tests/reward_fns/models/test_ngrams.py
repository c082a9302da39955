from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

from reward_fns.models.ngrams import shared_ngrams, words_13a

PIECES = [*"a5.,-' \n\t;{~!&`_\u00e9\x85\x1c\u0661\u00b2", "-\n", "<skipped>", "&amp;", "&lt;", "..", "12", "5."]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=20).map("".join) | st.text(max_size=20)


@given(TEXTS)
def test_words_are_those_of_sacrebleu(text):
    assert words_13a(text) == Tokenizer13a()(text).split()


@given(st.lists(st.sampled_from("abc")), st.lists(st.sampled_from("abd")))
def test_shared_ngrams_are_those_of_a_count(ours, theirs):
    def grams(words, order):
        return Counter(zip(*(words[start:] for start in range(order)), strict=False))

    assert shared_ngrams(ours, theirs) == [(grams(ours, n) & grams(theirs, n)).total() for n in (1, 2, 3, 4)]
