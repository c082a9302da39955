"""CheXbert, BERTScore and ROUGE-L as f1chexbert 0.0.2, bert-score 0.3.13 and rouge-score 0.1.2 have them."""

import math
import random

import numpy as np
import pytest

from reward_fns.models import bertscore, chexbert
from reward_fns.models.weights import HubFile, HubFolder
from reward_fns.rewards.bleu import bleu
from reward_fns.rewards.chexbert_f1 import chexbert_f1
from reward_fns.rewards.radcliq import radcliq
from reward_fns.rewards.rouge_l import rouge_l

pytestmark = pytest.mark.parity

MEAN = np.array([0.5379231241355762, 0.6175725628125001, 0.7647942121140658, 0.44738335396242174])
SCALE = np.array([0.3028258411486429, 0.22430938459304575, 0.2539439110169773, 0.2989271671041838])
COEFFICIENT = np.array([-0.37708368261038905, -0.37030009974480316, -0.25261621789593225, 4.315048405024756e-12])
INTERCEPT = 2.466552561323256e-10

ODD = ["", "   ", "\n\t", "no", "No.", "\u202eright to left", "a\u0000b\u0007c", "caf\u00e9 \u4e2d\u6587", "x" * 300]
ODD += [
    "[CLS] [SEP] [MASK] <s> </s>",
    "1,000.5 cm (left/right) \u2013 \u00a0 \u2028 end",
    "heart " * 700,
    "\u200b\u200b",
]
WORDS = ["the", "The", "heart", "lung", "left", "no", "No", "effusion", "is", "are", "enlarged", "unremarkable"]
WORDS += [".", ",", "(", ")", "3.5", "/", "-", "cm", "\n"]


def synthetic():
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS, k=rng.randrange(1, 80))) for _ in range(120)]
    return texts + ODD + [rng.choice(ODD) for _ in range(20)]


def real(reports):
    assert len(reports) >= 300
    return random.Random(0).sample(reports, 320)


@pytest.fixture(scope="module", params=["synthetic", "real"])
def compared(request, reference, text_models):
    """Texts with references, what the packages make of them, and what ours do."""
    texts = synthetic() if request.param == "synthetic" else real(request.getfixturevalue("real_reports"))
    others = texts[1:] + texts[:1]
    others[0] = texts[0]  # one pair of equals
    payload = {"root": str(text_models.root), "predictions": texts, "references": others}
    return texts, others, reference("reference_text_models.py", payload)


@pytest.fixture
def findings(compared, text_models):
    place = {"checkpoint": HubFile(str(text_models.scorers), "chexbert.pth"), "base": HubFolder(str(text_models.bert))}
    return [chexbert.classify(texts, **place) for texts in compared[:2]]


def test_chexbert_classes_are_identical(compared, findings):
    meaning = {chexbert.BLANK: "", chexbert.POSITIVE: 1, chexbert.NEGATIVE: 0, chexbert.UNCERTAIN: -1}
    ours = [[meaning[label] for label in found.classes] for found in findings[0]]
    assert ours == compared[2]["classes"]
    assert len({tuple(labels) for labels in ours}) > 10  # the random model tells reports apart


def test_chexbert_logits_and_embedding(compared, findings):
    for found, logits, embedding in zip(findings[0], compared[2]["logits"], compared[2]["embeddings"], strict=True):
        for ours, theirs in zip(found.logits, logits, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
        np.testing.assert_allclose(found.embedding, embedding, rtol=0, atol=1e-5)


def test_cosine_of_embeddings(compared, findings):
    expected = compared[2]
    for a, b, x, y in zip(*findings, expected["embeddings"], expected["embeddings_of_references"], strict=True):
        theirs = np.dot(x, y) / math.hypot(*x) / math.hypot(*y)
        assert chexbert.cosine(a.embedding, b.embedding) == pytest.approx(theirs, abs=1e-5)
    ours = [chexbert.cosine(a.embedding, b.embedding) for a, b in zip(*findings, strict=True)]
    assert ours == pytest.approx(expected["reference_backend"], abs=1e-5)


@pytest.mark.parametrize(
    ("key", "options"),
    [("exact_top5", {"labels": "top5", "definition": "exact"}), ("micro_f1", {"definition": "f1", "both_empty": 0.0})],
)
def test_chexbert_rewards(compared, text_models, key, options):
    texts, others, expected = compared
    ours = chexbert_f1(texts, others, **options, repo=str(text_models.scorers), base=str(text_models.bert))
    assert ours == pytest.approx(expected[key], abs=1e-9)
    assert 0 < sum(ours) < len(ours)


@pytest.mark.parametrize("model", bertscore.SETTINGS)
def test_bertscore(compared, text_models, model):
    texts, others, expected = compared
    ours = bertscore.bertscore(
        texts, others, model=model, folder=bertscore.source(model, str(text_models.root / model))
    )
    np.testing.assert_allclose(np.array(ours), np.array(expected[model]), rtol=0, atol=1e-5)
    assert ours[0].f1 == pytest.approx(1.0, abs=1e-5)


def f1(ours, theirs):
    hits = len(ours & theirs)
    return 2 * hits / (len(ours) + len(theirs)) if hits else 0.0


def test_radcliq(compared, text_models):
    """From the parts of the packages, BLEU included, with the constants of the published pickle."""
    texts, others, expected = compared
    graphs = expected["radgraph"]
    pairs = [i for i, pair in enumerate(zip(texts, others, strict=True)) if all(text in graphs for text in pair)]
    wanted = []
    for i in pairs:
        sides = [graphs[texts[i]], graphs[others[i]]]
        entities = [{(entity["tokens"], entity["label"]) for entity in side.values()} for side in sides]
        relations = [
            {
                (*((side[key]["tokens"], side[key]["label"]) for key in (source, target)), kind)
                for source, entity in side.items()
                for kind, target in entity["relations"]
            }
            for side in sides
        ]
        x, y = expected["embeddings"][i], expected["embeddings_of_references"][i]
        semb = np.dot(x, y) / math.hypot(*x) / math.hypot(*y)
        bert = expected["distilroberta-base"][i][2]
        features = np.array([(f1(*entities) + f1(*relations)) / 2, bert, semb, bleu(texts[i], others[i])])
        wanted.append(-float((features - MEAN) / SCALE @ COEFFICIENT + INTERCEPT))
    place = {"repo": str(text_models.scorers), "base": str(text_models.bert)}
    place["bert"] = str(text_models.root / "distilroberta-base")
    ours = radcliq(
        [texts[i] for i in pairs], [others[i] for i in pairs],
        clip=False, lower_text=False, max_chars=0, min_chars=0, **place,
    )  # fmt: skip
    assert len(pairs) >= 120
    assert ours == pytest.approx(wanted, abs=3e-5)


def test_rouge_l(compared):
    texts, others, expected = compared
    assert [rouge_l(*pair) for pair in zip(texts, others, strict=True)] == pytest.approx(expected["rouge_l"], abs=1e-12)
