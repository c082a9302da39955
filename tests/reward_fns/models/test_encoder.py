import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward_fns.models.encoder import batches, encodable


@given(st.lists(st.integers(1, 600), max_size=60), st.integers(1, 1200))
def test_batches_hold_everything_once_within_the_budget(lengths, tokens):
    found = list(batches(lengths, tokens))
    assert sorted(i for batch in found for i in batch) == list(range(len(lengths)))
    for batch in found:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= tokens


def test_batches_are_sorted_and_full():
    assert list(batches([5, 1, 5, 1, 1], tokens=10)) == [[1, 3, 4], [0, 2]]
    assert list(batches([], tokens=10)) == []


def test_encodable():
    assert encodable("a\ud800b\udfff") == "ab"
    assert encodable("caf\u00e9 \U0001f600 \u4e2d") == "caf\u00e9 \U0001f600 \u4e2d"


@pytest.mark.parametrize("text", ["", "\u202e\x00", "x" * 100_000, "heart " * 20_000])
def test_states_for_any_text(text_models, text):
    pytest.importorskip("torch")
    from transformers import AutoModel, AutoTokenizer

    from reward_fns.models.encoder import MAX_TOKENS, Encoder
    from reward_fns.settings import EngineOptions

    folder = text_models.root / "distilbert-base-uncased"
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    encoder = Encoder(model, tokenizer, EngineOptions(device="cpu"))
    ((length, ids),) = encoder.tokenise([text])
    assert 2 <= length == len(ids) <= MAX_TOKENS
    states = encoder.encode([ids])
    assert states.shape == (1, length, 32)
    assert states.isfinite().all()
