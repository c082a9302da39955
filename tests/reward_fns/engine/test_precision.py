"""`python -m reward_fns precision`."""

import json

import pytest

pytest.importorskip("torch")
from reward_fns.commands.cli import main


@pytest.fixture
def spec(text_models, tmp_path):
    """Path of a spec of two neural rewards and another."""
    models = {"repo": str(text_models.scorers)}
    rewards = [
        {"name": "radgraph_f1", "options": models | {"encoder": str(text_models.bert)}},
        {"name": "chexbert_cosine", "options": models | {"base": str(text_models.bert)}},
        {"name": "gleu"},
    ]
    path = tmp_path / "spec.yaml"
    path.write_text(json.dumps({"report": rewards}))
    return path


@pytest.fixture
def rows(tmp_path):
    texts = ["The heart is enlarged.", "Small left effusion. No edema.", "Lungs are clear.", "The heart is enlarged."]
    path = tmp_path / "rows.jsonl"
    pairs = zip(texts, texts[1:] + texts[:1], strict=True)
    path.write_text("".join(
        json.dumps({"task": "report", "prediction": a, "ground_truth": {"report": b}}) + "\n" for a, b in pairs
    ))  # fmt: skip
    return path


def test_what_a_precision_changes_is_measured(capsys, spec, rows):
    assert main(["precision", "--spec", str(spec), "--file", str(rows), "--engine", "dtype=float32"]) == 0
    same = capsys.readouterr().out
    assert same.count("of 4 values moved 0.00% by > 0.0001") == 2 and "gleu" not in same
    assert main(["precision", "--spec", str(spec), "--file", str(rows), "--engine", "dtype=bfloat16"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (labels,) = (line for line in lines if line.startswith("CheXbert, labels changed"))
    assert " of 42 " in labels  # 14 of each of 3 different texts
    (texts,) = (line for line in lines if line.startswith("RadGraph, texts with any change"))
    assert " of 3 " in texts
    (cosine,) = (line for line in lines if line.startswith("chexbert_cosine"))
    assert "at most 0\n" not in cosine + "\n"  # something does change


def test_rows_that_cannot_be_compared_are_named(capsys, spec, rows):
    rows.write_text(rows.read_text() + "{}\n")
    assert main(["precision", "--spec", str(spec), "--file", str(rows), "--engine", "dtype=float32"]) == 1
    assert "line 5: not a row to score" in capsys.readouterr().err
    assert main(["precision", "--rewards", "gleu", "--file", str(rows), "--engine", "dtype=float32"]) == 2
    assert "none of these rewards has a model" in capsys.readouterr().err
