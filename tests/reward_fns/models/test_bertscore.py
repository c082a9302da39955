import json
import shutil

import pytest

from reward_fns.errors import UsageError
from reward_fns.models import bertscore
from reward_fns.models.bertscore import SETTINGS, BertScore, rescaled, source

PREDICTIONS = [
    "The heart is enlarged.",
    "No acute process",
    "Small left effusion, " * 60,
    "x",
    "The heart is enlarged.",
]
REFERENCES = ["The heart is normal.", "No acute process", "effusion", "The heart " * 400, "The heart is normal."]


@pytest.fixture(params=SETTINGS)
def score(request, text_models):
    def call(predictions, references, **options):
        options = {"folder": source(request.param, str(text_models.root / request.param))} | options
        return bertscore.bertscore(predictions, references, model=request.param, **options)

    call.model = request.param
    return call


def by_hand(texts, folder, prefix):
    """Precision, recall and F1 of two texts, one step after the other."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    states = []
    for text in texts:
        with torch.no_grad():
            output = model(**tokenizer(prefix + text, return_tensors="pt"), output_hidden_states=True)
        states.append(output.hidden_states[5][0])
    table = [[torch.cosine_similarity(a, b, dim=0).item() for b in states[1]] for a in states[0]]
    precision = [max(row) for row in table][1:-1]
    recall = [max(column) for column in zip(*table, strict=True)][1:-1]
    p, r = sum(precision) / len(precision), sum(recall) / len(recall)
    return p, r, 2 * p * r / (p + r)


def test_value_by_hand(score, text_models):
    texts = "The heart is enlarged.", "The heart size is normal."
    folder, prefix = text_models.root / score.model, SETTINGS[score.model].prefix
    (found,) = score([texts[0]], [texts[1]], rescale=False)
    assert found == pytest.approx(by_hand(texts, folder, prefix), abs=1e-5)


def test_a_pair_does_not_depend_on_its_batch(score):
    together = score(PREDICTIONS, REFERENCES)
    assert together[0] == together[-1]
    for prediction, reference, found in zip(PREDICTIONS, REFERENCES, together, strict=True):
        assert found == pytest.approx(score([prediction], [reference])[0], abs=1e-5)
    assert score([], []) == []


def test_many_pairs_are_taken_in_parts(score, monkeypatch):
    whole = score(PREDICTIONS, REFERENCES)
    monkeypatch.setattr(bertscore, "_PAIRS", 2)
    for part, found in zip(score(PREDICTIONS, REFERENCES), whole, strict=True):
        assert part == pytest.approx(found, abs=1e-5)


def test_equal_texts(score):
    assert score(["The heart is enlarged."], [" The heart is enlarged.\n"])[0] == pytest.approx((1, 1, 1), abs=1e-5)


@pytest.mark.parametrize("pair", [("", "heart"), ("heart", " \n"), ("", ""), ("\ud800", "heart")])
def test_a_text_without_tokens(score, pair):
    assert score([pair[0]], [pair[1]], rescale=False) == [(0.0, 0.0, 0.0)]
    (found,) = score([pair[0]], [pair[1]])
    low = {"distilbert-base-uncased": -1.9958, "distilroberta-base": -5.5502}[score.model]
    assert found.f1 == pytest.approx(low, abs=1e-4)


def test_rescaling():
    baseline = SETTINGS["distilroberta-base"].baseline
    assert rescaled(baseline, "distilroberta-base") == (0.0, 0.0, 0.0)
    assert rescaled(BertScore(0.9, 0.9, 0.9), "distilbert-base-uncased").f1 == pytest.approx(
        0.233795 / 0.333795, abs=1e-5
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [({"n_layers": 7}, None), ({"dim": 16}, "does not hold"), ({"model_type": "nothing"}, "does not hold")],
)
def test_another_model_is_refused(text_models, tmp_path, change, message):
    folder = tmp_path / "distilbert-base-uncased"
    shutil.copytree(text_models.root / "distilbert-base-uncased", folder)
    config = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps(config))
    place = source("distilbert-base-uncased", str(folder))
    if message is None:  # more layers than we read are no harm
        assert bertscore.bertscore(["heart"], ["heart"], folder=place)[0].f1 == pytest.approx(1, abs=1e-5)
    else:
        with pytest.raises(UsageError, match=message):
            bertscore.bertscore(["heart"], ["heart"], folder=place)


def test_missing_weights_are_refused(text_models, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "model"
    shutil.copytree(text_models.root / "distilbert-base-uncased", folder)
    weights = load_file(folder / "model.safetensors")
    del weights["distilbert.transformer.layer.3.ffn.lin1.bias"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"1 weights don't fit, such as transformer\.layer\.3\.ffn\.lin1\.bias"):
        bertscore.bertscore(["heart"], ["heart"], folder=source("distilbert-base-uncased", str(folder)))


def test_source():
    assert source("distilroberta-base", "").repo == "distilbert/distilroberta-base"
    assert source("distilroberta-base", "me/mine", "v1") == source("distilroberta-base", "me/mine", "v1")
    assert source("distilroberta-base", "me/mine", "v1").revision == "v1"
