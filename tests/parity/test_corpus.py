"""What `evaluate` says of whole lists of reports, as f1chexbert, radgraph, bert-score and rouge-score say it."""

import json
import random

import pytest

from data_prep.sample import Sample
from data_prep.writer.dataset import DatasetWriter
from recipe.cxr_grpo import evaluate

pytestmark = pytest.mark.parity

WORDS = [
    "the",
    "heart",
    "lung",
    "left",
    "no",
    "No",
    "effusion",
    "is",
    "are",
    "enlarged",
    "edema",
    "opacity",
    ".",
    ",",
    "3.5",
]


def synthetic(count=120):
    rng = random.Random(1)
    return [" ".join(rng.choices(WORDS, k=rng.randrange(2, 60))) for _ in range(count)]


def real(reports):
    texts = [text for text in dict.fromkeys(reports) if text.strip()]
    return random.Random(0).sample(texts, 320)


@pytest.mark.parametrize("source", ["synthetic", "real"])
def test_corpus_numbers_equal_the_packages(request, reference, text_models_in_cache, tmp_path, source):
    references = synthetic() if source == "synthetic" else real(request.getfixturevalue("real_reports"))
    # A third of the answers are right, a third are another patient's, a third mix sentences of both.
    others = references[1:] + references[:1]
    mixed = [". ".join([*a.split(". ")[:1], *b.split(". ")[1:]]) for a, b in zip(references, others, strict=True)]
    predictions = [three[i % 3] for i, three in enumerate(zip(references, others, mixed, strict=True))]
    with DatasetWriter(tmp_path / "data", "radvlm") as writer:
        for number, report in enumerate(references):
            writer.add(Sample(f"r{number}", f"p{number}", "test", "set", "report", None, 0, 0, report=report))
    lines = (json.dumps({"id": f"r{number}", "prediction": text}) + "\n" for number, text in enumerate(predictions))
    (tmp_path / "mine.jsonl").write_text("".join(lines))
    command = ["--predictions", str(tmp_path / "mine.jsonl"), "--data", str(tmp_path / "data" / "test.parquet")]
    assert evaluate.main([*command, "--model", "m", "--out", str(tmp_path / "results")]) == 0
    ours = json.loads((tmp_path / "results/m/set-report/own/results.json").read_text())
    assert ours["samples"] == len(references) and ours["failed"] == ours["missing"] == 0
    payload = {"root": str(text_models_in_cache.root), "predictions": predictions, "references": references}
    theirs = reference("reference_corpus.py", payload)
    for name, value in theirs.items():
        assert ours["metrics"][name] == pytest.approx(value, abs=1e-5), name
    assert len(theirs) == 9 and 0.2 < theirs["chexbert_micro_14"] < 1.0 and 0.2 < theirs["radgraph_simple"] < 1.0
