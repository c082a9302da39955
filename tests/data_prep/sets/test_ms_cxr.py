import copy
import json
import shutil
from collections import Counter

import pytest
from fixtures import mimic_cxr as mimic
from fixtures import ms_cxr as fixture

from data_prep.cli import main

VERSIONS = ("1.0.0", "1.1.0")
WRITERS = {
    f"{version} {write.__name__}": (write, version)
    for version in VERSIONS
    for write in (fixture.write_csv, fixture.write_json)
}


@pytest.fixture
def run(tmp_path, capsys):
    root = mimic.write_tables(tmp_path / "jpg")

    def convert(rows, annotations, *options):
        out = tmp_path / "out"
        shutil.rmtree(out, ignore_errors=True)
        status = main(["ms_cxr", "--root", str(root), "--annotations", str(annotations), "--out", str(out), *options])
        files = [out / f"{split}.parquet" for split in ("train", "val", "test")]
        written = [row for file in files if file.exists() for row in rows(file)]
        return status, capsys.readouterr().err, written

    return convert


def kinds(tmp_path):
    path = tmp_path / "out/problems.jsonl"
    return Counter(json.loads(line)["kind"] for line in path.read_text().splitlines()) if path.exists() else Counter()


def truth(row):
    return json.loads(row["reward_model"]["ground_truth"])


@pytest.mark.parametrize(("write", "version"), WRITERS.values(), ids=WRITERS)
def test_boxes_of_a_phrase_make_one_row(run, rows, tmp_path, write, version):
    status, told, written = run(rows, write(tmp_path, version=version), "--strict")
    assert status == 0 and len(written) == 4
    by_phrase = {row["extra_info"]["id"].split("-")[5]: row for row in written}
    effusion = by_phrase["Pleural Effusion"]
    assert truth(effusion)["boxes"] == [[254 / 2544, 0.5, 890 / 2544, 0.75], [0.5, 0.5, 0.75, 0.75]]
    assert truth(effusion)["labels"] == ["Pleural Effusion"] * 2
    assert "small bilateral effusions" in effusion["prompt"][0]["content"]
    assert effusion["images"][0]["image"].endswith(f"/jpg/files/p10/p10000032/s50414267/{mimic.dicom(9)}.jpg")
    assert effusion["extra_info"]["patient_id"] == "p10000032" and effusion["data_source"] == "ms_cxr/grounding"
    assert (effusion["extra_info"]["width"], effusion["extra_info"]["height"]) == (2544, 3056)
    assert truth(by_phrase["Atelectasis"])["boxes"] == [[0.0, 0.0, 254 / 2544, 1.0]]
    # MIMIC-CXR's split is followed, and what the file itself says is told.
    assert by_phrase["Pneumonia"]["extra_info"]["split"] == "val"
    assert ("in test by their own file, in val by MIMIC-CXR's, which is followed: 1" in told) == (version == "1.1.0")


def test_ids_do_not_depend_on_the_order_of_the_rows(run, rows, tmp_path):
    _, _, written = run(rows, fixture.write_csv(tmp_path))
    _, _, turned = run(rows, fixture.write_csv(tmp_path, rows=fixture.ROWS[::-1]))
    contents = [{row["extra_info"]["id"]: truth(row)["boxes"] for row in some} for some in (written, turned)]
    assert contents[0] == contents[1]


def test_a_box_given_twice_is_used_once(run, rows, tmp_path):
    _, told, written = run(rows, fixture.write_csv(tmp_path, rows=[*fixture.ROWS, fixture.ROWS[1]]))
    assert "boxes given twice, used once: 1" in told
    assert sorted(len(truth(row)["boxes"]) for row in written) == [1, 1, 1, 2]


def change(column, value):
    def damage(rows):
        rows[3][column] = value

    return damage


DAMAGES = {
    "no width": (change(6, 0), "bad_box"),
    "corners swapped": (change(6, -300), "bad_box"),
    "not a number": (change(4, "nan"), "bad_box"),
    "blank": (change(7, ""), "bad_box"),
    "text": (change(7, "None"), "bad_box"),
    "infinite": (change(6, "inf"), "bad_box"),
    "left of the image": (change(4, -50), "box_outside"),
    "below the image": (change(7, 4000), "box_outside"),
    "image without a size": (change(8, ""), "bad_size"),
    "no phrase": (change(2, " "), "blank"),
    "path outside": (change(3, "../../etc/passwd"), "unsafe_path"),
    "another image's path": (change(3, fixture.ROWS[4][3]), "unsafe_path"),
    "patient without a split": (change(3, f"files/p19/p19999999/s57375967/{mimic.dicom(5)}.jpg"), "no_split"),
}


@pytest.mark.parametrize(("damage", "kind"), DAMAGES.values(), ids=DAMAGES)
def test_every_problem_is_counted_listed_and_refused_under_strict(run, rows, tmp_path, damage, kind):
    damaged = copy.deepcopy(fixture.ROWS)
    damage(damaged)
    path = fixture.write_csv(tmp_path, rows=damaged)
    status, told, written = run(rows, path, "--strict")
    assert status == 1 and kind in told and "--strict" in told and not written
    assert list((tmp_path / "out").iterdir()) == []
    status, told, written = run(rows, path)
    assert status == 0 and kinds(tmp_path) == {kind: 1} and len(written) == 3


@pytest.mark.parametrize("damage", [change(6, 0), change(8, "")])
def test_a_phrase_with_a_malformed_box_is_not_asked(run, rows, tmp_path, damage):
    damaged = copy.deepcopy(fixture.ROWS)
    damage([None] * 3 + [damaged[2]])
    _, _, written = run(rows, fixture.write_csv(tmp_path, rows=damaged))
    assert len(written) == 3 and kinds(tmp_path)["incomplete_boxes"] == 1
    assert not any("Pleural Effusion" in row["extra_info"]["id"] for row in written)


def test_half_of_a_surrogate_pair_is_a_problem(run, rows, tmp_path):
    content = fixture.content()
    content["annotations"][3]["label_text"] = "a\ud800"
    (tmp_path / "a.json").write_text(json.dumps(content))
    status, _, written = run(rows, tmp_path / "a.json")
    assert status == 0 and kinds(tmp_path) == {"bad_text": 1} and len(written) == 3


def test_negatives_are_categories_that_the_report_denies(run, rows, tmp_path):
    labels = [
        # The first study denies a category with a box, one without, and one that the set does not have.
        (10000032, 50414267, *("0.0", "0.0", *[""] * 7, "1.0", "", "-1.0", "0.0", "")),
        (10000764, 57375967, *("", "1.0", *[""] * 7, "0.0", "", "", "", "")),
    ]
    mimic.write_csv(tmp_path / "jpg/mimic-cxr-2.0.0-chexpert.csv", mimic.CHEXPERT, labels)
    status, _, written = run(rows, fixture.write_csv(tmp_path), "--negatives", "9", "--strict")
    absent = {row["extra_info"]["id"][-13:] for row in written if not truth(row)["boxes"]}
    assert status == 0 and absent == {"-cardiomegaly", "ural effusion"}
    (tmp_path / "jpg/mimic-cxr-2.0.0-chexpert.csv").unlink()
    status, told, _ = run(rows, fixture.write_csv(tmp_path), "--negatives", "1")
    assert status == 2 and "--negatives" in told and "chexpert.csv" in told


def test_images_of_two_sizes(run, rows, tmp_path):
    damaged = copy.deepcopy(fixture.ROWS)
    damaged[2][9] = 3055
    status, _, _ = run(rows, fixture.write_csv(tmp_path, rows=damaged))
    assert status == 0 and kinds(tmp_path) == {"size_mismatch": 1, "incomplete_boxes": 1}


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (lambda content: content["annotations"][3].pop("bbox"), "bad_box"),
        (lambda content: content["annotations"][3].pop("label_text"), "missing_key"),
        (lambda content: content["annotations"][3].update(image_id=99), "missing_key"),
        (lambda content: content["annotations"][3].update(category_id=99), "missing_key"),
        (lambda content: content["images"][1].update(path=None), "missing_key"),
    ],
)
def test_missing_keys_in_the_json(run, rows, tmp_path, damage, kind):
    content = fixture.content()
    damage(content)
    path = tmp_path / "MS_CXR_Local_Alignment_v1.1.0.json"
    path.write_text(json.dumps(content))
    status, _, written = run(rows, path)
    assert status == 0 and kinds(tmp_path) == {kind: 1} and len(written) == 3


@pytest.mark.parametrize(
    ("text", "status", "message"),
    [("{", 1, "not valid JSON"), ("[]", 1, "needs images"), ('{"images": [{}]}', 1, "needs images")],
)
def test_a_json_that_is_none_of_ms_cxr(run, rows, tmp_path, text, status, message):
    path = tmp_path / "a.json"
    path.write_text(text)
    refused, told, _ = run(rows, path)
    assert refused == status and message in told and "a.json" in told


def test_a_missing_column_is_named(run, rows, tmp_path):
    path = fixture.write_csv(tmp_path)
    path.write_text(path.read_text().replace("label_text", "label"))
    status, told, _ = run(rows, path)
    assert status == 2 and "no column label_text" in told
    assert run(rows, tmp_path / "nothing.csv")[0] == 2
