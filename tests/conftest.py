import signal
from types import SimpleNamespace

import pytest

# What a shell starts in the background ignores Ctrl-C, and so would all that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def text_models(tmp_path_factory):
    """Tiny random models for text rewards, all under `root`: `scorers` with the files of StanfordAIMI/RRG_scorers,
    `bert`, and BERTScore's models under the names that it knows them by."""
    pytest.importorskip("transformers")
    import tiny_checkpoints
    import tiny_text_models

    root = tmp_path_factory.mktemp("models")
    scorers, bert = root / "RRG_scorers", root / "bert-base-uncased"
    scorers.mkdir()
    tiny_checkpoints.bert_folder(bert, initializer_range=0.3)
    tiny_text_models.chexbert(scorers)
    for model in ("radgraph", "radgraph-xl"):
        tiny_checkpoints.radgraph_archive(scorers, model, bert, shift=-0.5)
    tiny_text_models.distilbert(root / "distilbert-base-uncased")
    tiny_text_models.distilroberta(root / "distilroberta-base")
    return SimpleNamespace(root=root, scorers=scorers, bert=bert)


@pytest.fixture
def text_models_in_cache(text_models, tmp_path, monkeypatch):
    """The same in an offline Hugging Face cache, where rewards look by default."""
    import tiny_text_models
    from huggingface_hub import constants

    cache = tmp_path / "hub"
    tiny_text_models.put_in_cache(text_models, cache)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return text_models
