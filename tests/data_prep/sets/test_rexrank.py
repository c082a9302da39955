import json

import pytest
from fixtures import rexrank as fixture


@pytest.fixture
def run(tmp_path, convert, rows):
    """Runs the command on records; gives status, messages, rows by id and problems by kind."""

    def on(records, *options, images="images", above=False):
        root, path = fixture.write(tmp_path / "rexrank", records, images)
        status, told, out = convert("rexrank", root.parent if above else root, "--annotations", path, *options)
        files = [out / f"{split}.parquet" for split in ("train", "val", "test")]
        written = {row["extra_info"]["id"]: row for file in files if file.exists() for row in rows(file)}
        listed = (out / "problems.jsonl").read_text() if (out / "problems.jsonl").exists() else ""
        return status, told, written, [json.loads(line)["kind"] for line in listed.splitlines()]

    return on


def told_of(row):
    extra = row["extra_info"]
    return extra["patient_id"], extra["split"], json.loads(row["reward_model"]["ground_truth"])["report"]


def test_key_images_of_iu_xray(run):
    status, _, written, _ = run(fixture.IU_XRAY, "--strict")
    assert status == 0
    assert told_of(written["CXR3030_IM-1405"]) == ("CXR3030", "test", "Clear lungs.")
    assert told_of(written["CXR38_IM-1911"]) == ("CXR38", "val", "Large heart.")
    row = written["CXR3030_IM-1405"]
    assert row["data_source"] == "rexrank/report"
    assert [image["image"].rpartition("rexrank/")[2] for image in row["images"]] == ["images/CXR3030_IM-1405/1.png"]


@pytest.mark.parametrize("above", [False, True])
def test_mimic_and_chexpert_plus(run, above):
    status, _, written, _ = run(fixture.MIMIC, "--strict", images="files", above=above)
    assert status == 0 and told_of(written["50051329"]) == ("p10046166", "test", "Small effusion.")
    assert written["50051329"]["images"][0]["image"].endswith("s50051329/c.jpg")
    status, _, written, _ = run(fixture.CHEXPERT, "--strict", "--section", "impression", images="PNG", above=above)
    assert status == 0 and told_of(written["patient64620_study1"]) == ("patient64620", "test", "1. NO EDEMA.")


def test_context_and_images(run):
    _, _, written, _ = run(fixture.MIMIC, "--context", "indication,lateral", "--per", "image")
    assert set(written) == {"50051329-b", "50051329-c"}
    row = written["50051329-c"]
    assert "Indication for this examination: ___ with cough.\n" in row["prompt"][0]["content"]
    assert [image["image"].rpartition("/")[2] for image in row["images"]] == ["c.jpg", "a.jpg"]
    _, _, written, _ = run(fixture.IU_XRAY, "--context", "indication")
    assert (
        "Indication for this examination: Chest pain, dyspnea\n" in written["CXR3030_IM-1405"]["prompt"][0]["content"]
    )
    assert "Indication" not in written["CXR38_IM-1911"]["prompt"][0]["content"]


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"image_path": None}, "missing_key"),
        ({"frontal_lateral": []}, "missing_key"),
        ({"split": ["test"]}, "no_split"),
        ({"image_path": ["../a.png"] * 2, "frontal_lateral": ["Frontal"] * 2}, "unsafe_path"),
        ({"section_findings": "half \ud83d"}, "bad_json"),
        (7, "missing_key"),
    ],
)
def test_every_problem_is_listed_and_refused_under_strict(run, change, kind):
    second = fixture.IU_XRAY["CXR38_IM-1911"]
    records = fixture.IU_XRAY | {"CXR38_IM-1911": second | change if isinstance(change, dict) else change}
    status, _, written, kinds = run(records)
    assert status == 0 and set(written) == {"CXR3030_IM-1405"} and set(kinds) == {kind}
    assert run(records, "--strict")[0] == 1


def test_missing_inputs_are_named(run, tmp_path):
    status, told, _, _ = run(fixture.IU_XRAY, "--annotations", tmp_path / "nowhere.json")
    assert status == 2 and "nowhere.json" in told
    status, told, _, _ = run(fixture.IU_XRAY, "--root", tmp_path / "nowhere")
    assert status == 2 and "nowhere is not a folder" in told
