import json
import shutil
from collections import Counter

import numpy as np
import pytest
from fixtures import instructions as fixture
from fixtures import vindr_cxr as vindr

from data_prep.cli import main
from reward_fns.conventions import get_convention


@pytest.fixture
def run(tmp_path, capsys, rows):
    """Runs the command; gives status, messages, RL rows by id, SFT rows, and problems by kind."""

    def convert(*options, content=None):
        root = fixture.write_images(tmp_path / "datasets")
        file, out = fixture.write(tmp_path, content), tmp_path / "out"
        arguments = ["--root", str(root), "--annotations", str(file), "--out", str(out)]
        status = main(["radvlm_instruct", *arguments, *options])
        found = {row["extra_info"]["id"]: row for row in rows(out / "train.parquet")} if status == 0 else {}
        sft = rows(out / "sft_train.parquet") if status == 0 else []
        listed = (out / "problems.jsonl").read_text() if (out / "problems.jsonl").exists() else ""
        kinds = Counter(json.loads(line)["kind"] for line in listed.splitlines())
        return status, capsys.readouterr().err, found, sft, kinds

    return convert


def truth(row):
    return json.loads(row["reward_model"]["ground_truth"])


def test_every_source_becomes_what_it_is(run):
    status, told, found, sft, kinds = run("--min-pixels", "1")
    assert status == 0 and not kinds and len(sft) == 13
    assert "items: 13 here, 1,115,021 as published (-1,115,008)" in told
    assert {name: row["data_source"] for name, row in found.items()} == {
        "vindr-cxr-train1_0": "vindr_cxr/grounding",
        "vindr-cxr-train2_1": "vindr_cxr/grounding",
        "vindr-cxr-mono-train1_2": "vindr_cxr/grounding",
        "mscxr-train1_3": "ms_cxr/grounding",
        "padchest-train1_4": "padchest_gr/grounding",
        "mimic-train_5": "mimic_cxr/report",
        "chexpertplus-train_6": "chexpert_plus/report",
        "chestima-train_7": "chest_imagenome/grounding",
    }
    assert truth(found["mimic-train_5"])["report"] == "The lungs are clear."
    assert truth(found["chestima-train_7"])["boxes"] == [[0.45, 0.3, 0.55, 0.4]]
    assert truth(found["vindr-cxr-train2_1"])["boxes"] == []
    detection = truth(found["vindr-cxr-train1_0"])
    assert detection["labels"] == ["nodule/mass", "nodule/mass", "ild"] and len(detection["boxes"]) == 3
    assert found["mimic-train_5"]["prompt"][0]["content"] == "<image>\nReport this."


def test_answers_are_word_by_word_in_their_own_convention_and_boxes_alone_in_another(run):
    sft = run()[3]
    assert sft[2]["messages"][1]["content"] == "The nodule is at [0.1, 0.2, 0.3, 0.4] there."
    assert [message["content"] for message in sft[10]["messages"]] == [
        "<image>\nIs it clear?", "Yes.", "Sure?", "Quite."
    ]  # fmt: skip
    answer = run("--box-format", "qwen3vl")[3][0]["messages"][1]["content"]
    boxes = get_convention("qwen3vl").parse(answer, (20, 30)).boxes
    assert [box.label for box in boxes] == ["nodule/mass", "nodule/mass", "ild"]
    assert np.allclose(boxes[0].quad, (0.1, 0.2, 0.3, 0.4))


def test_patients_are_those_of_the_sources(run):
    found = run()[2]
    patients = {name.rpartition("-train")[0]: row["extra_info"]["patient_id"] for name, row in found.items()}
    assert patients["mimic"] == patients["mscxr"] == "p10000001" and patients["chestima"] == "p11000002"
    assert patients["chexpertplus"] == "patient00008"
    # As vindr_cxr and padchest_gr name them.
    assert patients["vindr-cxr"] == patients["vindr-cxr-mono"] == "0123456789abcdef0123456789abcdef"
    assert patients["padchest"] == "P77"


def test_without_the_table_of_its_patients_no_film_of_padchest_is_used(run, tmp_path):
    run()
    table = tmp_path / "datasets" / fixture.MASTER_TABLE
    moved = table.rename(tmp_path / "patients.csv")
    fixture.write(tmp_path)
    arguments = ["--root", str(tmp_path / "datasets"), "--annotations", str(tmp_path / "all_train.json")]
    for options, count in (([], 2), (["--padchest-table", str(moved)], 0)):
        assert main(["radvlm_instruct", *arguments, "--out", str(tmp_path / "again"), *options]) == 0
        listed = tmp_path / "again/problems.jsonl"
        kinds = [json.loads(line)["kind"] for line in listed.read_text().splitlines()] if listed.exists() else []
        assert kinds == ["no_patient"] * count


def test_patients_have_the_names_that_the_sets_of_their_own_give_them(run, tmp_path, convert, rows):
    """One film in two sets, each in a split of its own, is seen by `validate` as one patient in two splits."""
    root = vindr.write(tmp_path / "vindr")
    status, told, out = convert("vindr_cxr", root)
    assert status == 0, told
    patient = rows(out / "train.parquet")[0]["extra_info"]["patient_id"]
    instructions = [fixture.item("vindr-cxr-mono-train1_2", f"x/{patient}.jpg", "Where?", "At [0.1, 0.2, 0.3, 0.4].")]
    folder = tmp_path / "datasets/x"
    folder.mkdir(parents=True)
    fixture.write_images(tmp_path / "datasets")
    (tmp_path / "datasets" / fixture.VINDR).rename(folder / f"{patient}.jpg")
    shutil.rmtree(out)
    found = run(content=instructions)[2]
    assert found["vindr-cxr-mono-train1_2"]["extra_info"]["patient_id"] == patient


def test_deep_films_are_made_readable_and_others_stay(run):
    found = run()[2]
    assert found["mimic-train_5"]["images"][0]["image"].endswith(fixture.MIMIC)
    assert "/out/images/" in found["padchest-train1_4"]["images"][0]["image"]


@pytest.mark.parametrize("machine", ["", "/capstor/someone/datasets", "/data"])
def test_images_are_found_wherever_they_were(run, machine):
    status, _, _, sft, kinds = run(content=fixture.items(machine))
    assert status == 0 and len(sft) == 13 and not kinds


def test_sources_can_be_chosen_and_patients_split(run, tmp_path, rows):
    status, _, found, sft, _ = run("--sources", "mimic", "mimic-labels")
    assert status == 0 and set(found) == {"mimic-train_5"} and len(sft) == 2
    out = tmp_path / "out"
    (out / "train.parquet").unlink()
    arguments = ["--root", str(tmp_path / "datasets"), "--annotations", str(tmp_path / "all_train.json")]
    assert main(["radvlm_instruct", *arguments, "--out", str(out), "--split-by-hash", "0,1,0"]) == 0
    assert len(rows(out / "val.parquet")) == 8 and not (out / "train.parquet").exists()


def boxes(answer, identity="vindr-cxr-mono-train1_2"):
    return fixture.item(identity, fixture.VINDR, "Where?", answer)


@pytest.mark.parametrize(
    ("broken", "kind"),
    [
        (boxes("At [0.1, 0.2, 0.1, 0.4]."), "swapped_corners"),
        (boxes("At [0.1, nan, 0.3, 0.4]."), "bad_box"),
        (boxes("At [0.3, 0.2, 0.1, 0.4]."), "swapped_corners"),
        (boxes("At [0.1, 0.2, 1.3, 0.4]."), "bad_box"),
        (boxes("At [0.1, 0.2, 0.3, 0.4] and [0.5, 0.6, 0.7]."), "bad_box"),
        (boxes("Nowhere."), "no_box"),
        (boxes("Seen at [0.1, 0.2, 0.3, 0.4].", "vindr-cxr-train1_1"), "bad_box"),
        (boxes("Fine.", "someone-else_1"), "unknown_source"),
        (fixture.item("mimic-train_1", "/elsewhere/x.jpg", "Q", "A"), "missing_image"),
        (fixture.item("mimic-train_1", "../x.jpg", "Q", "A"), "unsafe_path"),
        (fixture.item("mimic-train_1", "/a/../../etc/passwd", "Q", "A"), "unsafe_path"),
        (fixture.item("mimic-train_1", fixture.MIMIC, "Q", "A", "Q", "A"), "several_turns"),
        (fixture.item("mimic-train_5", fixture.MIMIC, "Q", "A"), "duplicate_id"),
    ],
)
def test_what_cannot_be_used_is_listed(run, broken, kind):
    good = fixture.items()[5]
    status, _, found, _, kinds = run(content=[good, broken])
    assert status == 0 and list(found) == ["mimic-train_5"] and kinds == {kind: 1}
    assert run("--strict", content=[good, broken])[0] == 1
