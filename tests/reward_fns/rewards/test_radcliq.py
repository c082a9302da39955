import math
import random

import pytest

from reward_fns import registry
from reward_fns.models import bertscore, chexbert, radgraph
from reward_fns.models.radgraph import Entity
from reward_fns.models.radgraph_facts import combined_f1
from reward_fns.models.weights import HubFile, HubFolder
from reward_fns.rewards.radcliq import bounded, needs, radcliq, radcliq_bounded, radcliq_v1
from reward_fns.rewards.radgraph_combined import radgraph_combined

PERFECT, NOTHING = 1.4407, -2.4501
REPORT = "the heart is enlarged ."


def annotate(texts, **_):
    """Every word an entity, "is" none, each after the first relates to the one before."""
    graphs = []
    for text in texts:
        words = [word for word in text.split() if word != "is"]
        relations = [((("modify", i - 1),) if i else ()) for i in range(len(words))]
        graphs.append(tuple(Entity(word, "X", i, i, relations[i]) for i, word in enumerate(words)))
    return graphs


@pytest.fixture
def place(text_models, monkeypatch):
    """Options for the tiny models, with a RadGraph that reads as `annotate` does."""
    seen = []

    def called(texts, **options):
        seen.append((list(texts), options))
        return annotate(texts)

    monkeypatch.setattr(radgraph, "annotate", called)
    place = {"repo": str(text_models.scorers), "base": str(text_models.bert)}
    return place | {"bert": str(text_models.root / "distilroberta-base")}, seen


def parts(prediction, reference, place):
    """The parts of RadCliQ, one by one."""
    f1 = combined_f1(*annotate([prediction, reference]))
    folder = bertscore.source("distilroberta-base", place["bert"])
    bert = bertscore.bertscore([prediction], [reference], model="distilroberta-base", folder=folder)[0].f1
    checkpoint, base = HubFile(place["repo"], "chexbert.pth"), HubFolder(place["base"])
    a, b = chexbert.classify([prediction, reference], checkpoint=checkpoint, base=base)
    return f1, bert, chexbert.cosine(a.embedding, b.embedding)


def test_constants_give_the_published_numbers():
    assert radcliq_v1(1, 1, 1) == pytest.approx(-PERFECT, abs=5e-5)
    assert radcliq_v1(0, 0, 0) == pytest.approx(-NOTHING, abs=5e-5)
    assert radcliq_v1(0.5, 1, 1) == pytest.approx(-0.8181, abs=5e-5)
    zero = radcliq_v1(0, 0, 0)
    slopes = [radcliq_v1(*(float(i == j) for j in range(3))) - zero for i in range(3)]
    assert slopes == pytest.approx([-1.24522, -1.65085, -0.99477], abs=5e-6)


def test_combined_f1_by_hand():
    a, b, c = (Entity(token, "X", i, i) for i, token in enumerate("abc"))
    linked = Entity("b", "X", 1, 1, (("modify", 0), ("located_at", 0)))
    assert combined_f1((a, linked), (a, linked)) == 1.0
    assert combined_f1((a, b), (a, b)) == 0.5  # no relation
    assert combined_f1((a, linked), (a, b, c)) == pytest.approx((4 / 5 + 0) / 2)
    one = Entity("b", "X", 1, 1, (("modify", 0),))
    assert combined_f1((a, linked), (a, one)) == pytest.approx((1 + 2 / 3) / 2)
    assert combined_f1((a, Entity("b", "Y", 1, 1, (("modify", 0),))), (a, one)) == pytest.approx((1 / 2 + 0) / 2)
    assert combined_f1((a, a, one), (a, one)) == 1.0  # sets
    assert combined_f1((), ()) == combined_f1((), (a,)) == 0.0


def test_reward_is_minus_radcliq_of_its_parts(place):
    options, seen = place
    predictions = ["The heart is NORMAL .", REPORT, "no acute process", "is is is", "no effusion " * 400]
    rewards = radcliq(predictions, [REPORT] * len(predictions), clip=False, **options)
    for prediction, value in zip(predictions, rewards, strict=True):
        expected = parts(prediction[:2048].lower(), REPORT, options)
        assert value == pytest.approx(-radcliq_v1(*expected), abs=1e-4)
    assert rewards[1] == pytest.approx(PERFECT, abs=1e-4)
    assert seen[0][1]["model"] == "radgraph-xl"
    assert {len(text) for text in seen[0][0]} == {len(text) for text in [*predictions[:4], REPORT]} | {2048}


def test_equal_reports_without_relation(place):
    assert radcliq(["normal"], ["normal"], **place[0]) == pytest.approx([0.8181], abs=1e-4)


def test_clipping(place):
    options = place[0]
    (low,) = radcliq(["\ud800" * 9], [REPORT], clip=False, **options)
    assert registry.get("radcliq").range[0] <= low < -10  # no token is left of it
    assert radcliq(["\ud800" * 9], [REPORT], **options) == [-3.0]
    assert radcliq_bounded(["\ud800" * 9], [REPORT], **options) == [0.0]


def test_rules_for_texts(place):
    options = place[0]
    pairs = [("heart", REPORT), (REPORT, "heart"), (REPORT, REPORT), ("", "")]
    rewards = radcliq(*map(list, zip(*pairs, strict=True)), **options)
    assert rewards == [-3.0, -3.0, pytest.approx(PERFECT, abs=1e-4), -3.0]
    assert radcliq(["heart"], ["heart"], min_chars=5, **options)[0] == pytest.approx(0.8181, abs=1e-4)
    assert radcliq([REPORT.upper()], [REPORT], **options)[0] == pytest.approx(PERFECT, abs=1e-4)
    assert radcliq([REPORT.upper()], [REPORT], lower_text=False, **options)[0] < 1
    assert radcliq([REPORT + "x" * 90], [REPORT], max_chars=len(REPORT), **options)[0] == pytest.approx(
        PERFECT, abs=1e-4
    )
    assert radcliq(["short"], ["small"], **options) == [-3.0] and radcliq([], [], **options) == []


def test_odd_texts_stay_in_range_and_do_not_depend_on_each_other(place):
    rng = random.Random(0)
    odd = ["\u202e\x00 \x07\u200b", " " * 9, "x" * 100_000, "no effusion " * 9000, "\ud800" * 9, "<think> [0, 1, 2"]
    odd += ["".join(chr(rng.randrange(0x3000)) for _ in range(rng.randrange(200))) for _ in range(40)]
    together = radcliq(odd, [REPORT] * len(odd), **place[0])
    assert all(-3 <= value <= PERFECT for value in together)
    for prediction, value in zip(odd, together, strict=True):
        assert radcliq([prediction], [REPORT], **place[0])[0] == pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize(
    ("value", "sigmoid", "linear"),
    [(PERFECT, 0.80857, 1.0), (0.0, 0.5, 3 / 4.4407), (-3.0, 0.0, 0.0), (-12.6, 0.0, 0.0), (NOTHING, 0.0794, 0.12383)],
)
def test_bounded(value, sigmoid, linear):
    assert bounded(value, "sigmoid") == pytest.approx(sigmoid, abs=1e-4)
    assert bounded(value, "linear") == pytest.approx(linear, abs=1e-4)


def test_bounded_reward(place):
    options = place[0]
    predictions = ["The heart is NORMAL .", REPORT, "tiny"]
    values = radcliq(predictions, [REPORT] * 3, clip=False, **options)
    for transform in ("sigmoid", "linear"):
        rewards = radcliq_bounded(predictions, [REPORT] * 3, transform=transform, **options)
        assert rewards == pytest.approx([bounded(value, transform) for value in values], abs=1e-6)
    assert math.isclose(rewards[1], 1.0, abs_tol=1e-4) and rewards[2] == 0.0


def test_combined_reward(place):
    rewards = radgraph_combined(["The Heart", "x", ""], ["the heart", "the heart", "the heart"])
    assert rewards == [1.0, 0.0, 0.0]
    assert radgraph_combined(["The heart"], ["the heart"], lower_text=False) == [pytest.approx((1 / 2 + 0) / 2)]
    assert place[1][0][1]["model"] == "radgraph"


def test_failures_earn_the_papers_floor():
    assert registry.get("radcliq").floor == -3.0 and registry.get("radcliq_bounded").floor == 0.0


def test_needs(text_models):
    options = dict(registry.get("radcliq").options) | {"repo": "me/mine", "revision": "v1", "encoder": "me/encoder"}
    assert [getattr(part, "name", part.repo) for part in needs(options)] == [
        "radgraph-xl.tar.gz", "me/encoder", "chexbert.pth", "google-bert/bert-base-uncased",
        "distilbert/distilroberta-base",
    ]  # fmt: skip
