"""The gold answers of prepared data must earn enough from the rewards, and fit the response."""

import json

import pytest
from fixtures.damage import film, verdict

from data_prep.checks.lengths import PromptLengths
from data_prep.writer.dataset import DatasetWriter
from reward_fns.boxes import Box


def test_the_rewards_of_a_preset_judge_the_gold_answers(sound, capsys):
    status, said = verdict(capsys, sound / "train.parquet", "--preset", "paper_grounding")
    assert status == 1
    assert "gold below maximum: 1" in said and "(id absent)" in said  # its rule for empty answers is 0
    assert "note: gold answers of report rows were not scored" in said


def test_sound_reports_pass_rewards_whose_range_a_gold_answer_does_not_reach(
    sound, tmp_path, capsys, text_models_in_cache
):
    """radcliq gives equal reports at most 1.4407, or 0.8181 without a relation in them, of a range up to 1.45."""
    (tmp_path / "spec.yaml").write_text(
        "report:\n"
        "  - {name: radcliq, options: {min_chars: 6}}\n  - {name: radcliq_bounded}\n  - {name: radgraph_combined}\n"
    )
    for arguments in (["--preset", "paper_report"], ["--spec", tmp_path / "spec.yaml"]):
        status, said = verdict(capsys, sound / "train.parquet", *arguments)
        assert status == 0, said


REWARD = """
from reward_fns.registry import reward

@reward("words_right", task="report", range=(0.0, 100.0))
def words_right(prediction: str, reference: str) -> float:
    'Number of words of the prediction that the reference has too, so that 100 is out of reach.'
    return float(sum(word in reference.split() for word in prediction.split() if word != "lost"))
"""


def test_a_report_must_earn_what_it_earns_without_a_trace_and_more_than_no_answer(tmp_path, make_sample, capsys):
    reports = {"a": "Clear.", "b": "lost", "c": "The end of </think> what is seen."}
    (tmp_path / "mine.py").write_text(REWARD)
    (tmp_path / "spec.yaml").write_text("report:\n  - {name: words_right, path: mine.py}\n")
    with DatasetWriter(tmp_path / "data", thinking=True) as writer:
        for name, report in reports.items():
            writer.add(make_sample(id=name, task="report", report=report, boxes=(), image=film(ord(name))))
    status, said = verdict(capsys, tmp_path / "data", "--spec", tmp_path / "spec.yaml")
    assert status == 1 and "gold below maximum: 2" in said
    assert "(id b): the gold answer 'lost' earns too little: words_right is 0, no more than for no answer" in said
    assert "(id c)" in said and "words_right is 3, but 7 without a reasoning trace" in said


@pytest.mark.parametrize("report", ["None", "nan", "...", "N/A.", "null"])
def test_a_report_that_stands_for_a_missing_one(tmp_path, make_sample, capsys, report):
    with DatasetWriter(tmp_path) as writer:
        writer.add(make_sample(task="report", report=report, boxes=()))
        writer.add(make_sample(id="b", task="report", report="No nodule.", kind="impression", boxes=()))
    status, said = verdict(capsys, tmp_path)
    assert status == 1 and "placeholder report: 1" in said and repr(report) in said


def test_the_ceiling_of_each_box_format_is_printed(tmp_path, make_sample, capsys):
    """Two boxes on a film of 400 x 300: one that every format can write, one that two decimals cannot."""
    boxes = (Box(0.1, 0.2, 0.5, 0.75), Box(0.504, 0.1, 0.514, 0.9))
    with DatasetWriter(tmp_path / "data") as writer:
        writer.add(make_sample(boxes=boxes, image=film(9, (400, 300)), width=400, height=300))
        writer.add(make_sample(id="none", phrase="mass", boxes=(), image=film(9, (400, 300)), width=400, height=300))
    status, said = verdict(capsys, tmp_path / "data", "--json", tmp_path / "report.json")
    assert status == 0, said
    formats = json.loads((tmp_path / "report.json").read_text())["box_formats"]
    # [0.5, 0.1, 0.51, 0.9] meets the second box in 0.006 of 0.014 of the width.
    assert formats["radvlm"] == pytest.approx({"score": (1 + 6 / 14) / 2, "under_0.5": 0.5})
    assert formats["qwen3vl"] == pytest.approx({"score": 1, "under_0.5": 0})
    assert set(formats) == {"radvlm", "qwen3vl", "qwen25vl", "pixel"} and formats["pixel"]["under_0.5"] == 0
    assert "share of 2 boxes under IoU 0.5" in said and "radvlm     0.714   50.0%" in said


def test_gold_answers_longer_than_a_response_can_be(sound, tmp_path, capsys):
    pytest.importorskip("transformers")
    from recipe.cxr_grpo.demo import architecture

    model = tmp_path / "model"
    architecture.write_random(model, hidden_size=64, layers=1)
    tokens = PromptLengths(str(model)).count_text("Film 0 is clear.")
    gold = ["--model", model, "--max-response"]
    status, said = verdict(capsys, sound / "train.parquet", *gold, 500)
    assert status == 0 and "0 over --max-response" in said
    status, said = verdict(capsys, sound / "train.parquet", *gold, tokens - 1)
    assert status == 1 and f"{tokens} tokens, over --max-response {tokens - 1}: no response can be that long" in said
    status, said = verdict(capsys, sound / "train.parquet", "--max-response", 9)
    assert status == 2 and "give --model too" in said
