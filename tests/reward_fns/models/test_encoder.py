import pytest

from reward_fns.models.encoder import encodable


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
