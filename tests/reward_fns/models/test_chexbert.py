import importlib.metadata
import sys
import threading
import types

import numpy as np
import pytest

from reward_fns.errors import UsageError
from reward_fns.models import chexbert
from reward_fns.models.weights import HubFile, HubFolder

TEXTS = ["The heart is enlarged.", "", "No acute process", "Small left effusion, " * 60, "The heart is enlarged. "]


@pytest.fixture
def classify(text_models):
    checkpoint, base = HubFile(str(text_models.scorers), "chexbert.pth"), HubFolder(str(text_models.bert))
    return lambda texts, **place: chexbert.classify(texts, **({"checkpoint": checkpoint, "base": base} | place))


@pytest.fixture
def changed(text_models, tmp_path):
    """The checkpoint after a change to its content."""

    def save(change, **options):
        import torch

        content = torch.load(text_models.scorers / "chexbert.pth", weights_only=True)
        torch.save(change(content) or content, tmp_path / "chexbert.pth", **options)
        return HubFile(str(tmp_path), "chexbert.pth")

    return save


def alike(a, b):
    np.testing.assert_allclose(a.embedding, b.embedding, atol=1e-5)
    np.testing.assert_allclose(np.concatenate(a.logits), np.concatenate(b.logits), atol=1e-5)
    return a.classes == b.classes


def test_a_report_does_not_depend_on_its_batch(classify):
    together = classify(TEXTS)
    assert all(alike(found, classify([text])[0]) for text, found in zip(TEXTS, together, strict=True))
    assert together[0] is together[-1]  # they differ in white space only
    assert not np.allclose(together[0].embedding, together[2].embedding)
    assert classify([]) == []


def test_what_it_says(classify):
    (found,) = classify(["The heart is enlarged."])
    assert [len(values) for values in found.logits] == [4] * 13 + [2]
    assert found.classes == tuple(int(np.argmax(values)) for values in found.logits)
    assert found.embedding.shape == (32,) and found.embedding.dtype == np.float32


def test_white_space_and_surrogates(classify):
    plain, spaced, odd = classify(["no effusion", " no\n\t effusion\u00a0", "no \ud800effusion"])
    assert spaced is plain and alike(odd, plain)


def test_only_the_first_512_tokens_count(classify):
    start = "heart " * 510  # and [CLS] and [SEP]
    cut, longer, shorter = classify([start, start + "enlarged " * 40, start + "enlarged"])
    assert alike(cut, longer) and alike(cut, shorter)
    assert not np.allclose(cut.embedding, classify(["heart " * 509])[0].embedding, atol=1e-6)


def test_many_threads(classify):
    alone = classify(TEXTS)
    results = []
    threads = [threading.Thread(target=lambda: results.append(classify(TEXTS))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    assert all(alike(a, b) for result in results for a, b in zip(result, alone, strict=True))


def test_newer_file_format_and_what_is_not_needed(classify, changed):
    import torch

    def change(content):
        content["optimizer_state_dict"] = {"state": {0: {"exp_avg": torch.zeros(3)}}}
        content["model_state_dict"]["module.bert.embeddings.position_ids"] = torch.arange(512)[None]

    assert alike(classify(TEXTS, checkpoint=changed(change))[0], classify(TEXTS)[0])


@pytest.mark.parametrize(
    ("removed", "added", "message"),
    [
        ("linear_heads.13.bias", None, "linear_heads.13.bias"),
        ("bert.encoder.layer.1.output.dense.bias", None, "1 weights don't fit.* encoder.layer.1.output.dense.bias"),
        (None, "bert.encoder.layer.2.output.dense.bias", "1 weights don't fit.* encoder.layer.2.output.dense.bias"),
        (None, "linear_heads.13.weight", "its 14 heads must have the shapes"),
    ],
)  # fmt: skip
def test_another_checkpoint_is_refused(classify, changed, removed, added, message):
    def change(content):
        state = content["model_state_dict"]
        first = state["module.linear_heads.0.weight"]
        if removed:
            del state[f"module.{removed}"]
        if added:
            state[f"module.{added}"] = first

    with pytest.raises(UsageError, match=f"chexbert.pth.*{message}"):
        classify(["x"], checkpoint=changed(change))


def test_another_file_is_refused(classify, changed):
    with pytest.raises(UsageError, match=r"is not a CheXbert checkpoint.*model_state_dict"):
        classify(["x"], checkpoint=changed(lambda content: {"epoch": 1}))


def test_no_checkpoint_at_all(classify, tmp_path):
    (tmp_path / "chexbert.pth").write_text("<html>")
    with pytest.raises(UsageError, match="is not a CheXbert checkpoint"):
        classify(["x"], checkpoint=HubFile(str(tmp_path), "chexbert.pth"))


def test_a_pickle_that_runs_code_is_not_run(classify, changed, tmp_path):
    class Evil:
        def __reduce__(self):
            return (tmp_path / "ran").write_text, ("x",)

    with pytest.raises(UsageError, match="is not a CheXbert checkpoint"):
        classify(["x"], checkpoint=changed(lambda content: content.update(epoch=Evil())))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("a", "b", "value"),
    [([1, 0], [0, 1], 0.0), ([1, 1], [-2, -2], -1.0), ([1, 2, 2], [2, 2, 1], 8 / 9), ([0], [1], 0.0)],
)
def test_cosine(a, b, value):
    assert chexbert.cosine(a, b) == pytest.approx(value)


@pytest.mark.parametrize(
    ("package", "version", "base", "message"),
    [
        (False, "4.57.6", chexbert.BASE, "needs the f1chexbert package"),
        (True, "5.9.0", chexbert.BASE, "does not run with transformers 5.9.0"),
        (True, "4.57.6", HubFolder("my/bert"), "leave out option base"),
    ],
)
def test_reference_backend_says_what_it_needs(classify, monkeypatch, package, version, base, message):
    module = types.SimpleNamespace(f1chexbert=None) if package else None
    monkeypatch.setitem(sys.modules, "f1chexbert", module)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    with pytest.raises(UsageError, match=message):
        classify(["x"], backend="reference", base=base)
