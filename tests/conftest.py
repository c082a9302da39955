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
    from huggingface_hub import constants

    folders = {
        "StanfordAIMI/RRG_scorers": text_models.scorers,
        "google-bert/bert-base-uncased": text_models.bert,
        "distilbert/distilbert-base-uncased": text_models.root / "distilbert-base-uncased",
        "distilbert/distilroberta-base": text_models.root / "distilroberta-base",
    }
    cache = tmp_path / "hub"
    for repo, folder in folders.items():
        place = cache / f"models--{repo.replace('/', '--')}"
        for name, content in (("refs/main", "0" * 40), ("snapshots", "")):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_text(content) if content else (place / name).mkdir()
        (place / "snapshots" / ("0" * 40)).symlink_to(folder)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return text_models
