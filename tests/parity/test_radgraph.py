"""Our reader of RadGraph's archives against the radgraph package, on the same tiny random checkpoints."""

import numpy as np
import pytest
import tiny_checkpoints as tiny

from data_prep.sets.demo import findings as demo_findings
from reward_fns.models.radgraph import annotate
from reward_fns.rewards.radgraph_f1 import radgraph_f1

pytestmark = pytest.mark.parity
LEVELS = ("simple", "partial", "complete")
HOSTILE = [
    "",
    "None",
    ".",
    "...",
    "a" * 300,
    "Edema EDEMA edema",
    "size (55%).' and 40%, (5%) 'left'.' ).",
    'quoted \\"clear\\" \\n next \\f page \\u2122',
    "either/. or/? /. /?",
    "a-b_c 1.5x2,3 cm;no:change!",
    "\u202eright to left\u202c naïve Ünïcode 肺 ™ 😀",
    "\x00\x07 bell \x1c separator \u200b zero width \u00ad",
    "tab\there\r\nthere\fand\vthen  twice",
    "no acute process. " * 130,  # more than 512 wordpieces
    "x1y2z3" * 90,
    "</think><answer>[Clinically Significant Errors]: (a)</answer>",
]


def demo_reports(count):
    """Reports of the demo data, one sentence or more, some in other case or without their spaces."""
    rng = np.random.default_rng(0)
    texts = []
    for i in range(count):
        text = demo_findings.report(demo_findings.draw_findings(rng), rng)
        texts.append([text, text.lower(), text.upper(), text.replace(". ", ".\n"), text.split(".")[0]][i % 5])
    return texts


def plain(annotation):
    """In the form of the package."""
    return {
        str(i): {
            "tokens": entity.tokens,
            "label": entity.label,
            "start_ix": entity.start,
            "end_ix": entity.end,
            "relations": [[kind, str(target + 1)] for kind, target in entity.relations],
        }
        for i, entity in enumerate(annotation, 1)
    }


def compare(reference, archive, model, texts):
    """Both readers on all texts; returns how many texts, entities and relations there were."""
    texts = list(dict.fromkeys(texts))
    theirs = reference("reference_radgraph.py", {"archive": str(archive), "model": model, "texts": texts})
    source = {"model": model, "repo": str(archive.parent), "max_chars": 0}
    ours = dict(zip(texts, annotate(texts, **source), strict=True))
    good = theirs["good"]
    assert good == texts, [theirs["annotations"][text] for text in texts if text not in good]
    for text in good:
        assert plain(ours[text]) == theirs["annotations"][text], text
    options = source | {"lower_text": False, "min_chars": 0}
    for level, values in zip(LEVELS, theirs["f1"], strict=True):
        assert radgraph_f1(good, good[1:] + good[:1], level, **options) == pytest.approx(values, abs=1e-9)
    assert radgraph_f1(good[:5], good[1:6], "partial", **options) == theirs["reference_backend"]
    entities = [entity for text in good for entity in ours[text]]
    return len(good), len(entities), sum(len(entity.relations) for entity in entities)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return tiny.bert_folder(tmp_path_factory.mktemp("encoder"))


@pytest.mark.parametrize("model", ["radgraph", "radgraph-xl"])
def test_demo_and_hostile_texts(reference, encoder, tmp_path, model):
    archive = tiny.radgraph_archive(tmp_path, model, encoder, shift=-1.2)
    _, entities, relations = compare(reference, archive, model, demo_reports(40) + HOSTILE)
    assert min(entities, relations) > 200


def test_modern_radgraph(reference, tmp_path):
    encoder = tiny.modernbert_folder(tmp_path / "encoder")
    archive = tiny.radgraph_archive(tmp_path, "modern-radgraph-xl", encoder, shift=-1.2)
    _, entities, relations = compare(reference, archive, "modern-radgraph-xl", demo_reports(40) + HOSTILE)
    assert min(entities, relations) > 200


def test_real_reports(reference, real_reports, encoder, tmp_path):
    archive = tiny.radgraph_archive(tmp_path, "radgraph-xl", encoder, shift=-1.2)
    texts = list(dict.fromkeys(real_reports))[:320]
    documents, entities, relations = compare(reference, archive, "radgraph-xl", texts)
    assert documents == 320 and min(entities, relations) > 200
