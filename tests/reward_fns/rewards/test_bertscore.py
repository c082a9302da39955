import pytest

from reward_fns import registry
from reward_fns.errors import UsageError
from reward_fns.models import bertscore as scorer
from reward_fns.rewards.bertscore import bertscore

TEXTS = [
    "The heart is enlarged.",
    "\u202e\x00 \x07\u200b\u200b",
    "x" * 100_000,
    "no effusion " * 300,
    "\ud800" * 9,
    " " * 9,
]
REFERENCE = "The heart size is normal."


@pytest.mark.parametrize("model", scorer.SETTINGS)
def test_value_is_the_f1_of_the_prepared_texts(text_models, model):
    repo = str(text_models.root / model)
    rewards = bertscore(TEXTS, [REFERENCE] * len(TEXTS), model=model, repo=repo)
    prepared = [text[:2048].lower() for text in TEXTS]
    scores = scorer.bertscore(
        prepared, [REFERENCE.lower()] * len(TEXTS), model=model, folder=scorer.source(model, repo)
    )
    assert rewards == pytest.approx([score.f1 for score in scores], abs=1e-5)
    low, high = registry.get("bertscore").range
    assert all(low <= value <= high for value in rewards)
    assert rewards[1] < 0 and rewards[0] > rewards[-1]


def test_short_texts_and_options(text_models):
    def call(prediction, reference=REFERENCE, **options):
        model = "distilroberta-base"
        return bertscore([prediction], [reference], model=model, repo=str(text_models.root / model), **options)[0]

    assert call("Heart") == call("", min_chars=1) == call(REFERENCE, reference="Heart") == 0.0
    assert call("Heart", min_chars=5) != 0.0
    assert call("Heart is normal") == call("heart is NORMAL")
    assert call("Heart is normal", lower_text=False) != call("heart is normal", lower_text=False)
    assert call("heart is normal, effusion", max_chars=15) == call("heart is normal", reference=REFERENCE[:15])
    assert 0 < call("heart is normal", rescale=False) < 1
    long = "heart is normal " * 200
    assert call(long) == pytest.approx(call(long[:2048], max_chars=0), abs=1e-6)
    assert bertscore([], [], repo=str(text_models.root / "distilbert-base-uncased")) == []


def test_a_model_failure_earns_0():
    assert registry.get("bertscore").floor == 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "distilbert"}, "distilbert-base-uncased"),
        ({"max_chars": -1}, "from 0"),
        ({"min_chars": 2.5}, "a whole number from 0"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        registry.get("bertscore").check_options(options)


def test_needs():
    options = dict(registry.get("bertscore").options)
    assert registry.get("bertscore").needs(options) == (scorer.source("distilbert-base-uncased", ""),)
    (folder,) = registry.get("bertscore").needs(options | {"repo": "me/mine", "revision": "v2"})
    assert (folder.repo, folder.revision) == ("me/mine", "v2")
