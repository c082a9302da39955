import pytest

pytest.importorskip("torch")
import tiny_checkpoints as tiny

from reward_fns import registry
from reward_fns.models.radgraph import Entity
from reward_fns.models.radgraph_facts import annotation_f1
from reward_fns.models.weights import HubFile, HubFolder
from reward_fns.rewards.radgraph_f1 import radgraph_f1

EFFUSION = Entity("effusion", "OBS-DP", 1, 1, (("located_at", 0),))
LEFT = (Entity("left", "ANAT-DP", 0, 0), EFFUSION)
CAPITAL = (Entity("Left", "ANAT-DP", 0, 0), EFFUSION)
RIGHT = (Entity("right", "ANAT-DP", 0, 0), EFFUSION)
TWICE = (*LEFT, EFFUSION)
BARE = (LEFT[0], Entity("effusion", "OBS-DP", 1, 1))


@pytest.mark.parametrize(
    ("prediction", "reference", "simple", "partial", "complete"),
    [
        (LEFT, LEFT, 1, 1, 1),
        (LEFT, RIGHT, 0.5, 0.5, 0),  # only the complete level sees what the effusion relates to
        (LEFT, BARE, 1, 0.5, 0.5),
        (LEFT, TWICE, 1, 1, 1),  # a fact counts once
        (LEFT, LEFT[:1], 2 / 3, 2 / 3, 2 / 3),
        (LEFT, (), 0, 0, 0),
        ((), (), 0, 0, 0),
        (LEFT, CAPITAL, 0.5, 0.5, 0.5),
    ],
)
def test_levels_by_hand(prediction, reference, simple, partial, complete):
    for level, value in (("simple", simple), ("partial", partial), ("complete", complete)):
        assert annotation_f1(prediction, reference, level, "pypi") == pytest.approx(value)
        assert annotation_f1(reference, prediction, level, "pypi") == pytest.approx(value)


def test_case_modes():
    for level in ("simple", "partial", "complete"):
        assert annotation_f1(LEFT, CAPITAL, level, "git") == 1.0


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    encoder = tiny.bert_folder(folder / "encoder")
    tiny.radgraph_archive(folder, "radgraph-xl", encoder, shift=-1.0)
    return {"repo": str(folder)}


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


REPORT = "There is mild pulmonary edema. Small left pleural effusion, unchanged."


def test_gold_against_gold_and_others(source):
    others = ["The heart is enlarged.", "Lungs are clear. No pneumothorax."]
    same, *different = radgraph_f1([REPORT, *others], [REPORT] * 3, **source)
    assert same == 1.0 and all(0.0 <= value < 1.0 for value in different)


def test_lower_text_and_cut(source):
    assert radgraph_f1([REPORT.upper()], [REPORT], **source) == [1.0]
    assert radgraph_f1([REPORT.upper()], [REPORT], lower_text=False, **source)[0] < 1.0
    longer = REPORT + " None of the lungs."
    assert radgraph_f1([longer], [REPORT], max_chars=len(REPORT), **source) == [1.0]
    assert radgraph_f1([longer], [REPORT], **source)[0] < 1.0


def test_short_and_empty_texts(source):
    short = ["", " ", "edema", REPORT]
    assert radgraph_f1(short, short, **source) == [0.0, 0.0, 0.0, 1.0]
    assert radgraph_f1(short, short, min_chars=0, **source)[:2] == [0.0, 0.0]
    assert radgraph_f1([], [], **source) == []


def test_what_it_needs(source):
    entry = registry.get("radgraph_f1")
    archive, encoder = entry.needs({**entry.options, **source})
    assert archive == HubFile(source["repo"], "radgraph-xl.tar.gz", "main")
    assert isinstance(encoder, HubFolder) and encoder.repo == source["repo"] + "/encoder"
    (archive, encoder) = entry.needs({**entry.options, **source, "revision": "v2", "encoder": "who/bert"})
    assert (archive.revision, encoder.repo, encoder.revision) == ("v2", "who/bert", "main")
