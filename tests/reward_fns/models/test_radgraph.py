import random
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("torch")
import tiny_checkpoints as tiny
from bench.scorers.random_weights import LABELS, RELATIONS

from reward_fns.errors import UsageError
from reward_fns.models import radgraph, radgraph_model, weights
from reward_fns.models.radgraph import annotate, words
from reward_fns.settings import EngineOptions, using

SENTENCES = [
    "The heart is enlarged.",
    "No pleural effusion or pneumothorax.",
    "There is mild pulmonary edema, unchanged.",
    "Small left effusion (2.5 cm).",
    "Lungs are clear; tube terminates above the carina.",
]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return tiny.bert_folder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def repo(tmp_path_factory, encoder):
    folder = tmp_path_factory.mktemp("repo")
    for model in ("radgraph", "radgraph-xl"):
        tiny.radgraph_archive(folder, model, encoder, shift=-1.0)
    return folder


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def reports(count, longest=8):
    rng = random.Random(0)
    return [" ".join(rng.choices(SENTENCES, k=rng.randint(1, longest))) for _ in range(count)]


def test_annotations_make_sense(repo):
    text = "Small left effusion (2.5 cm)."
    (found,) = annotate([text], repo=str(repo))
    split = words(text, "radgraph-xl")
    assert any(entity.relations for entity in found)
    for entity in found:
        assert entity.tokens == " ".join(split[entity.start : entity.end + 1])
        assert entity.label in LABELS["radgraph-xl"]
        assert {kind for kind, _ in entity.relations} <= set(RELATIONS)
        assert all(0 <= target < len(found) for _, target in entity.relations)
    assert [(entity.start, entity.end) for entity in found] == sorted((e.start, e.end) for e in found)


@pytest.mark.parametrize("model", ["radgraph", "radgraph-xl"])
def test_the_rest_of_the_batch_changes_nothing(repo, monkeypatch, model):
    texts = reports(24)
    alone = [annotate([text], model=model, repo=str(repo))[0] for text in texts]
    assert sum(map(len, alone)) > 100
    for budget in (64, 500, 4096):
        order = random.Random(budget).sample(range(len(texts)), len(texts))
        with using(EngineOptions(batch_tokens=budget)):
            together = annotate([texts[i] for i in order], model=model, repo=str(repo))
        assert together == [alone[i] for i in order]


def test_pairs_in_blocks_are_the_same_pairs(repo, monkeypatch):
    text = " ".join(SENTENCES)
    whole = annotate([text], repo=str(repo))
    monkeypatch.setattr(radgraph_model, "_BLOCK", 1)
    with using(EngineOptions(wait_ms=1)):  # other options, so that what is known doesn't count
        assert annotate([text], repo=str(repo)) == whole and any(entity.relations for entity in whole[0])


def test_equal_texts_are_read_once(repo, monkeypatch):
    seen = []
    original = radgraph_model.RadGraph.encode
    monkeypatch.setattr(radgraph_model.RadGraph, "encode", lambda self, r: seen.extend(r) or original(self, r))
    texts = SENTENCES * 3
    with using(EngineOptions(device="cpu")):
        found = annotate(texts, repo=str(repo))
        assert annotate(texts, repo=str(repo)) == found
    assert len(seen) == len(SENTENCES)
    assert found == annotate(SENTENCES, repo=str(repo)) * 3
    assert annotate([], repo="/nowhere") == []


def test_threads_take_turns(repo):
    texts = reports(40)
    expected = annotate(texts, repo=str(repo))

    def alone(text):
        with using(EngineOptions(wait_ms=2)):
            return annotate([text], repo=str(repo))[0]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(alone, texts)) == expected


def test_a_text_without_end_is_capped_before_pairs_are_formed(repo, monkeypatch, caplog):
    monkeypatch.setattr(radgraph, "MAX_WORDS", 40)
    text = "Small left effusion. " * 5000  # 100 kB
    (found,) = annotate([text], repo=str(repo), max_chars=0)
    assert found == annotate([" ".join(words(text, "radgraph-xl")[:40])], repo=str(repo))[0]
    assert "first 40 words of a text that has 20000" in caplog.text


@pytest.mark.parametrize("change", [{"dtype": "bfloat16"}, {"compile": True}])
def test_precision_is_an_option(repo, change, monkeypatch):
    compiled = []
    monkeypatch.setattr("torch.compile", lambda model, dynamic: compiled.append(dynamic) or model)
    with using(EngineOptions(**change)):
        found = annotate(SENTENCES, repo=str(repo))
    assert len(found) == len(SENTENCES) and any(found)
    assert compiled == [True] * ("compile" in change)


@pytest.mark.parametrize("text", [" ", "\n\n", "\t\x1c ", "\u2003"])
def test_white_space_has_no_entities(repo, text):
    found = annotate([text, SENTENCES[0]], repo=str(repo))
    assert found == [(), annotate([SENTENCES[0]], repo=str(repo))[0]]


def test_an_empty_text_counts_as_none(repo):
    assert annotate([""], repo=str(repo)) == annotate(["None"], repo=str(repo))


@pytest.mark.parametrize(
    "text",
    [
        "\ud800 edema",
        "\udfff",
        "\x00\x01",
        "\u200b \u200b",
        "\u202eedema",
        "肺炎",
        "a" * 5000,
        "</think>" * 9,
        "." * 900,
    ],
)
def test_odd_texts(repo, text):
    both = annotate([text, SENTENCES[1]], repo=str(repo))
    assert both[1] == annotate([SENTENCES[1]], repo=str(repo))[0]
    assert both[0] == annotate([text], repo=str(repo))[0]


def test_long_texts_are_cut_before_anything_else(repo):
    text = " ".join(reports(30))
    assert len(text) > 2048
    source = {"repo": str(repo)}
    assert annotate([text], **source) == annotate([text[:2048]], **source)
    assert annotate([text], max_chars=100, **source) == annotate([text[:100]], **source)
    uncut = annotate([text], max_chars=0, **source)[0]  # more than 512 wordpieces
    assert uncut[-1].end > len(words(text[:2048], "radgraph-xl"))


def test_weights_are_recorded(repo, encoder):
    annotate(["edema"], repo=str(repo))
    assert {str(repo / "radgraph-xl.tar.gz"), str(encoder / "config.json")} <= set(weights.loaded())


def test_another_encoder_folder(repo, encoder, tmp_path):
    (tmp_path / "copy").mkdir()
    for name in ("config.json", "vocab.txt", "tokenizer_config.json"):
        (tmp_path / "copy" / name).write_bytes((encoder / name).read_bytes())
    moved = tiny.radgraph_archive(tmp_path, "radgraph", encoder, shift=-1.0, name="/of/the/trainer")
    with pytest.raises(UsageError, match=r"cannot get .* of /of/the/trainer"):
        annotate(["edema"], model="radgraph", repo=str(moved.parent))
    found = annotate(SENTENCES, model="radgraph", repo=str(moved.parent), encoder=str(tmp_path / "copy"))
    assert found == annotate(SENTENCES, model="radgraph", repo=str(repo))


NER = "_ner._ner_scorers.radgraph__ner_labels.1._module"
POOLER = "_embedder.token_embedder_bert._matched_embedder.transformer_model.pooler.dense.bias"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop(f"{NER}.weight"), rf"weights.th has no .*{NER}"),
        (
            lambda state: state.update({"_new.weight": state[POOLER]}),
            r"that RadGraph does not: _new.weight",
        ),
        (lambda state: state.pop(POOLER), r"encoder .* does not fit .*: 1 weights .* first pooler"),
        (
            lambda state: state.update({POOLER.replace("pooler", "puller"): state[POOLER]}),
            r"does not fit .*: 1 weights .* first puller",
        ),
        (lambda state: state.update({f"{NER}.bias": state[f"{NER}.bias"][:2]}), "labels in .* don't fit the weights"),
    ],
)
def test_weights_of_another_shape_are_refused(encoder, tmp_path, change, message):
    tiny.radgraph_archive(tmp_path, "radgraph", encoder, change=change)
    with pytest.raises(UsageError, match=message):
        annotate(["edema"], model="radgraph", repo=str(tmp_path))


def test_an_encoder_of_another_size_is_refused(repo, tmp_path):
    other = tiny.bert_folder(tmp_path / "other", hidden_size=16)
    with pytest.raises(UsageError, match="does not fit"):
        annotate(["edema"], repo=str(repo), encoder=str(other))


def test_coreference_is_refused(encoder, tmp_path):
    path = tiny.radgraph_archive(tmp_path, "radgraph", encoder, settings={"coref": {"coref_prop": 1}})
    with pytest.raises(UsageError, match="uses coreference"):
        annotate(["edema"], model="radgraph", repo=str(path.parent))


def test_weights_that_are_not_numbers_are_a_failure_and_not_an_empty_report(encoder, tmp_path):
    word = POOLER.replace("pooler.dense.bias", "embeddings.LayerNorm.bias")
    path = tiny.radgraph_archive(tmp_path, "radgraph", encoder, change=lambda state: state[word].fill_(float("nan")))
    with pytest.raises(FloatingPointError, match="not finite"):
        annotate(["edema"], model="radgraph", repo=str(path.parent))


def test_unknown_model():
    with pytest.raises(UsageError, match="unknown RadGraph model 'radgraph-lx'; did you mean 'radgraph-xl'"):
        annotate(["edema"], model="radgraph-lx")


def test_the_reference_backend_says_what_it_needs(repo):
    with pytest.raises(UsageError, match=r"radgraph.*'cxr-grpo\[reference\]'"):
        annotate(["edema"], repo=str(repo), backend="reference")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a-b 1.5cm", ["a", "-", "b", "1", ".", "5cm"]),
        ("(5%).' x", ["(", "5", "%", ")", ".", "'", "x"]),
        ('say \\"no\\"\\nnew', ["say", "``", "no", "``", "new"]),
        ("...", ["..."]),
        ("", ["None"]),
        (" \n", []),
    ],
)
def test_words_of_the_newer_models(text, expected):
    assert words(text, "radgraph-xl") == words(text, "modern-radgraph-xl") == expected


def test_words_of_the_first_model():
    assert words("No edema,(1.5/2 cm):x-ray; ok?!", "radgraph") == [
        "No", "edema", ",", "(", "1", ".", "5", "/", "2", "cm", ")", ":", "x-ray;", "ok", "?", "!",
    ]  # fmt: skip
    assert words("", "radgraph") == ["None"]
