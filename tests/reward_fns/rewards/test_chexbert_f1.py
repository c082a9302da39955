import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward_fns import registry
from reward_fns.models.chexbert import OBSERVATIONS, classify
from reward_fns.models.weights import HubFile, HubFolder
from reward_fns.rewards.chexbert_cosine import chexbert_cosine
from reward_fns.rewards.chexbert_f1 import agreement, chexbert_f1

TEXTS = [
    "The heart is enlarged.",
    "",
    "\ud800\u202e\x00",
    "x" * 100_000,
    "no effusion " * 300,
    "No acute process",
    " \n",
]
NORMAL = [0] * 13 + [1]
CLASSES = st.tuples(*[st.integers(0, 3)] * 13, st.integers(0, 1))


def classes(**marked):
    return [marked.get(name.replace(" ", "_").lower(), 0) for name in OBSERVATIONS]


@pytest.mark.parametrize(
    ("prediction", "reference", "options", "value"),
    [
        (classes(edema=1, fracture=1), classes(edema=1), {}, 2 / 3),
        (classes(edema=1, fracture=1), classes(edema=1), {"labels": "top5"}, 1.0),
        (classes(edema=1, fracture=1), classes(edema=1), {"definition": "accuracy"}, 13 / 14),
        (classes(edema=1, fracture=1), classes(edema=1), {"definition": "exact"}, 0.0),
        (classes(edema=1, fracture=1), classes(edema=1), {"definition": "exact", "labels": "top5"}, 1.0),
        (classes(edema=3), classes(edema=1), {}, 1.0),
        (classes(edema=3), classes(edema=1), {"uncertain": "class"}, 0.0),
        (classes(edema=3, fracture=1), classes(edema=3, fracture=3), {"uncertain": "class"}, 0.5),
        (classes(edema=3), classes(edema=1), {"uncertain": "class", "definition": "accuracy", "labels": "top5"}, 4 / 5),
        (classes(edema=2), classes(), {"definition": "exact", "uncertain": "class"}, 1.0),
        (NORMAL, NORMAL, {}, 1.0),
        (NORMAL, NORMAL, {"labels": "top5", "both_empty": 0.25}, 0.25),
        (classes(edema=2), classes(), {}, 1.0),
        (classes(edema=2), classes(), {"both_empty": 0.0}, 0.0),
        (classes(), classes(edema=1), {}, 0.0),
    ],
)
def test_values_by_hand(prediction, reference, options, value):
    assert agreement(prediction, reference, **options) == pytest.approx(value)


@given(CLASSES, CLASSES, st.sampled_from(["all", "top5"]), st.sampled_from(["positive", "class"]))
def test_agreement_is_symmetric_and_full_for_equals(a, b, labels, uncertain):
    for definition in ("f1", "accuracy", "exact"):
        options = {"labels": labels, "uncertain": uncertain, "definition": definition}
        assert 0 <= agreement(a, b, **options) == agreement(b, a, **options) <= 1
        assert agreement(a, a, **options) == 1


def test_reward_is_the_agreement_of_what_chexbert_sees(text_models):
    repo, base = str(text_models.scorers), str(text_models.bert)
    found = classify(TEXTS, checkpoint=HubFile(repo, "chexbert.pth"), base=HubFolder(base))
    pairs = list(itertools.product(range(len(TEXTS)), repeat=2))
    for options in ({}, {"labels": "top5", "uncertain": "class", "definition": "accuracy"}):
        rewards = chexbert_f1(
            [TEXTS[i] for i, _ in pairs], [TEXTS[j] for _, j in pairs], **options, repo=repo, base=base
        )
        assert rewards == [agreement(found[i].classes, found[j].classes, **options) for i, j in pairs]
    assert chexbert_f1([], [], repo=repo, base=base) == []


def test_cosine_reward(text_models):
    place = {"repo": str(text_models.scorers), "base": str(text_models.bert)}
    rewards = chexbert_cosine(TEXTS, [TEXTS[0]] * len(TEXTS), **place)
    assert rewards[0] == pytest.approx(1) and all(-1 <= value <= 1 for value in rewards)
    assert rewards[5] == pytest.approx(chexbert_cosine([TEXTS[5]], [TEXTS[0]], **place)[0], abs=1e-6)
    assert rewards[5] == pytest.approx(chexbert_cosine([TEXTS[0]], [TEXTS[5]], **place)[0], abs=1e-6)
    assert max(rewards[1:]) < 0.9999


def test_weights_named_in_options_are_needed():
    options = dict(registry.get("chexbert_f1").options) | {"repo": "me/mine", "revision": "v1"}
    assert registry.get("chexbert_f1").needs(options) == (
        HubFile("me/mine", "chexbert.pth", "v1"),
        HubFolder("google-bert/bert-base-uncased"),
    )
