"""ReXrank's studies in, a submission out; the round trip with a model is in test_generate."""

import ast
import json
import re
import sys

import pyarrow.parquet as pq
import pytest

pytest.importorskip("verl")

from fixtures import rexrank as fixture

from recipe.cxr_grpo import rexrank
from recipe.cxr_grpo.demo import pretraining

NAN = float("nan")
HALF = {"section_findings": NAN, "frontal_lateral": [NAN]}


def run(*arguments):
    return rexrank.main([*map(str, arguments)])


@pytest.fixture
def studies(tmp_path):
    """Imports records; gives status and rows by study."""

    def on(records, *options, images="images"):
        root, path = fixture.write(tmp_path / "rexrank", records, images)
        status = run("import", path, "--img-root", root, "--out", tmp_path / "data", *options)
        rows = pq.read_table(tmp_path / "data" / "test.parquet").to_pylist()
        return status, {row["extra_info"]["id"]: row for row in rows}

    return on


def reference(row):
    return json.loads(row["reward_model"]["ground_truth"])["report"]


def test_every_study_is_asked_about_with_its_patient_and_key_image(studies):
    records = fixture.IU_XRAY | fixture.CHEXPERT
    status, rows = studies(records)
    assert status == 0 and set(rows) == set(records)
    assert rows["CXR3030_IM-1405"]["extra_info"]["patient_id"] == "CXR3030"
    assert rows["CXR3030_IM-1405"]["images"][0]["image"].endswith("images/CXR3030_IM-1405/1.png")
    assert len({row["prompt"][0]["content"] for row in rows.values()}) == 1
    assert reference(rows["CXR3030_IM-1405"]) == "Clear lungs." and reference(rows["patient64620_study1"]) == "None"
    status, rows = studies(fixture.MIMIC, images="files")
    assert status == 0 and rows["50051329"]["extra_info"]["patient_id"] == "p10046166"


def test_missing_sections_and_views_are_said_and_scored_as_none(studies, capsys):
    records = {study: entry | HALF for study, entry in fixture.CHEXPERT.items()} | fixture.IU_XRAY
    status, rows = studies(records, "--kind", "report", "--thinking")
    said = capsys.readouterr().out
    assert status == 0
    assert reference(rows["patient64620_study1"]) == "Findings: None Impression: 1. NO EDEMA."
    assert reference(rows["CXR3030_IM-1405"]) == "Findings: Clear lungs. Impression: Normal."
    assert "studies without findings, whose reference says None: 1" in said
    assert "studies without impression, whose reference says None: 1" in said
    assert "studies whose film has a blank view: 1" in said
    assert rows["CXR3030_IM-1405"]["prompt"][0]["content"].endswith(" /think")


def test_without_a_key_image_a_frontal_one_is_taken(studies):
    entry = {key: value for key, value in fixture.IU_XRAY["CXR3030_IM-1405"].items() if key != "key_image_path"}
    _, rows = studies({"CXR3030_IM-1405": entry})
    assert rows["CXR3030_IM-1405"]["images"][0]["image"].endswith("images/CXR3030_IM-1405/1.png")


@pytest.mark.parametrize(
    "change",
    [
        {"image_path": None},
        {"image_path": []},
        {"image_path": [7]},
        {"key_image_path": "no.png", "image_path": ["no.png"]},
        7,
    ],
)
def test_a_study_that_cannot_be_asked_about_is_named(studies, tmp_path, capsys, change):
    second = fixture.IU_XRAY["CXR38_IM-1911"]
    status, rows = studies(fixture.IU_XRAY | {"CXR38_IM-1911": second | change if isinstance(change, dict) else change})
    assert status == 1 and set(rows) == {"CXR3030_IM-1405"}
    assert "CXR38_IM-1911" in capsys.readouterr().out
    assert json.loads((tmp_path / "data" / "problems.jsonl").read_text())["where"] == "CXR38_IM-1911"


def export(tmp_path, rows, *options, end="\n"):
    (tmp_path / "predictions.jsonl").write_text("\n".join(map(json.dumps, rows)) + end)
    _, path = fixture.write(tmp_path / "rexrank", fixture.IU_XRAY)
    out = tmp_path / "submission.json"
    return run("export", tmp_path, "--input", path, "--out", out, *options), out


@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
def test_a_submission_is_the_input_with_the_answers(tmp_path, end):
    rows = [{"id": study, "prediction": f"<think>a</think> Clear, {study}. "} for study in fixture.IU_XRAY]
    rows += [{"id": study, "prediction": "of another's film", "films": "swapped"} for study in fixture.IU_XRAY]
    status, out = export(tmp_path, rows, "--thinking", end=end)
    assert status == 0
    written = json.loads(out.read_text())
    for study, entry in fixture.IU_XRAY.items():
        assert written[study].pop("model_prediction") == f"Clear, {study}."
        assert json.dumps(written[study]) == json.dumps(entry)  # NaN is not equal to itself


def test_an_answer_without_its_end_of_reasoning_is_empty_and_plain_answers_stay(tmp_path):
    rows = [{"id": study, "prediction": "<think>a"} for study in fixture.IU_XRAY]
    for options, answer in ((["--thinking"], ""), ([], "<think>a")):
        _, out = export(tmp_path, rows, *options)
        assert {entry["model_prediction"] for entry in json.loads(out.read_text()).values()} == {answer}


@pytest.mark.parametrize("second", [{}, {"films": "swapped"}, {"status": "failed", "error": "no film"}])
def test_a_study_without_an_answer_is_refused(tmp_path, capsys, second):
    rows = [{"id": "CXR3030_IM-1405", "prediction": "Clear."}]
    rows += [{"id": "CXR38_IM-1911", "prediction": "", **second}] if second else []
    status, out = export(tmp_path, rows)
    assert status == 2 and not out.exists()
    assert "1 of 2 studies have no answer, such as CXR38_IM-1911" in capsys.readouterr().err


def test_a_submission_says_what_was_asked_and_names_all_that_it_needs(tmp_path):
    out = tmp_path / "submission"
    assert run("package", f"qwen3_vl_rl={pretraining.MODEL}", "--out", out) == 0
    settings = json.loads((out / "settings.json").read_text())
    assert settings["prompt"].startswith(rexrank.rexrank.QUESTIONS["findings"])
    assert "one paragraph" in settings["prompt"] and settings["prompt"] in (out / "README.md").read_text()
    assert (out / "model" / "config.json").read_text() == (pretraining.MODEL / "config.json").read_text()
    needed = {
        name.name.partition(".")[0] if isinstance(node, ast.Import) else node.module.partition(".")[0]
        for node in ast.walk(ast.parse((out / "inference.py").read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    } - sys.stdlib_module_names
    pinned = set(re.findall(r"- (\S+)==[\d.]+$", (out / "environment.yaml").read_text(), re.MULTILINE))
    assert {"pillow" if name == "PIL" else name for name in needed} <= pinned
    assert run("package", str(pretraining.MODEL), "--out", out) == 2


def test_a_submission_asks_a_reasoning_model_for_reasoning(tmp_path):
    assert run("package", "radvlm_thinking_rl=some/where", "--thinking", "--out", tmp_path / "out") == 0
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert settings["thinking"] and settings["prompt"].endswith(" /think") and settings["max_new_tokens"] == 4096
    assert settings["model"] == "some/where" and not (tmp_path / "out" / "model").exists()
