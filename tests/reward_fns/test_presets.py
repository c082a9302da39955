"""The presets for reports, with tiny models in place of the published ones."""

import pytest

from reward_fns.rewards.gleu import gleu
from reward_fns.spec import preset_names, resolve

REFERENCE = {"report": "There is a small left pleural effusion. The heart is enlarged."}
GOOD, BAD = "Small left pleural effusion. The heart is enlarged.", "No acute process"
REPORTS = ["editgrpo", "paper_ablation_bertscore", "paper_ablation_gleu", "paper_ablation_radgraph", "paper_report"]
REPORTS += ["unirg_stage1"]


@pytest.fixture
def report(score, text_models_in_cache):
    def call(text, preset, thinking=False):
        return score(text, REFERENCE, "mimic/report", {"thinking": thinking}, preset=preset)

    return call


def test_all_presets_are_known():
    assert preset_names() == sorted([*REPORTS, "paper_grounding", "paper_mixed", "quickstart", "unirg_stage2"])


@pytest.mark.parametrize("preset", REPORTS)
def test_an_equal_report_is_the_best(report, preset):
    best, good, bad = (report(text, preset) for text in (REFERENCE["report"], GOOD, BAD))
    parts = resolve(preset=preset).tasks["report"]
    for result in (best, good, bad):
        expected = sum(part.weight * result[part.reward.name] for part in parts)
        assert result["score"] == pytest.approx(expected) and result["model_failed"] == 0
    assert best["score"] > good["score"] and best["score"] > bad["score"]


@pytest.mark.parametrize(
    ("preset", "floor"),
    [
        ("paper_report", -3.0),
        ("paper_ablation_bertscore", 0.0),
        ("paper_ablation_radgraph", 0.0),
        ("paper_ablation_gleu", 0.0),
    ],
)
def test_floors_of_the_paper(report, preset, floor):
    assert report("<think>hm, a mass?", preset, thinking=True)["score"] == floor
    assert report("", preset)["score"] == floor
    if preset != "paper_ablation_gleu":
        assert report("Heart", preset)["score"] == floor  # 5 characters
    thought = report(f"<think>a</think> no, <think>b</think> {GOOD}", preset, thinking=True)
    assert thought["score"] == pytest.approx(report(GOOD, preset)["score"], abs=1e-5) != floor


def test_paper_report_is_minus_radcliq(report):
    result = report(GOOD, "paper_report")
    assert result["score"] == result["radcliq"] and result["gleu"] == gleu(GOOD, REFERENCE["report"])
    assert (
        report(REFERENCE["report"].upper(), "paper_report")["radcliq"]
        == report(REFERENCE["report"], "paper_report")["radcliq"]
    )


def test_unirg_weights():
    weights = {part.reward.name: part.weight for part in resolve(preset="unirg_stage1").tasks["report"]}
    assert weights == {"bertscore": 0.37, "chexbert_cosine": 0.253, "radgraph_combined": 0.377}


def test_the_second_stage_of_unirg_is_the_first_with_a_judge():
    first, second = (resolve(preset=f"unirg_stage{number}").tasks["report"] for number in (1, 2))
    assert second[:-1] == first
    assert (second[-1].reward.name, second[-1].weight, second[-1].options) == ("green", 0.5, {"mode": "json"})


def test_a_mixed_run_has_the_rewards_of_both_of_the_paper_s():
    mixed, report, grounding = (resolve(preset=f"paper_{name}") for name in ("mixed", "report", "grounding"))
    trained = tuple(part for part in report.tasks["report"] if part.weight)
    assert mixed.tasks == {"report": trained, "grounding": grounding.tasks["grounding"]}
    assert (mixed.boxes, mixed.think_end) == (grounding.boxes, report.think_end)


def test_editgrpo_is_a_plain_sum(report):
    result = report(GOOD, "editgrpo")
    assert result["score"] == pytest.approx(result["radgraph_f1"] + result["chexbert_f1"])
