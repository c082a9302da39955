import copy
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from fixtures import films as film_files
from PIL import Image

from data_prep.cli import main

REAL = Path(__file__).parents[4] / "shared/data/real/tbx11k"
GOOD = {
    "images": [
        {"id": 1, "file_name": "a/p1_x.png", "width": 40, "height": 20},
        {"id": 2, "file_name": "p2_x.png", "width": 40, "height": 20},
        {"id": 3, "file_name": "p3_x.png", "width": 40, "height": 20},
    ],
    "categories": [{"id": 5, "name": "PleuralEffusion"}, {"id": 6, "name": "Nodule"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 6, "bbox": [10, 5, 20, 10]},
        {"id": 2, "image_id": 1, "category_id": 6, "bbox": [0, 0, 4, 4]},
        {"id": 3, "image_id": 2, "category_id": 5, "bbox": [30, 10, 10.6, 10], "iscrowd": 0},
    ],
}


@pytest.fixture
def films(tmp_path):
    root = tmp_path / "films"
    root.mkdir()
    for name in ("p1_x.png", "p2_x.png", "p3_x.png"):
        Image.fromarray(np.zeros((20, 40), np.uint8)).save(root / name)
    return root


@pytest.fixture
def run(films, tmp_path, capsys):
    def convert(content, *options):
        path = tmp_path / "boxes.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        arguments = ["coco", "--root", str(films), "--annotations", str(path), "--out", str(tmp_path / "out")]
        status = main([*arguments, *options])
        return status, capsys.readouterr().err, tmp_path / "out"

    return convert


def kinds(out):
    path = out / "problems.jsonl"
    return Counter(json.loads(line)["kind"] for line in path.read_text().splitlines()) if path.exists() else Counter()


def test_boxes_become_grounding_rows(run, rows):
    status, told, out = run(GOOD, "--strict")
    assert status == 0 and "images without boxes: 1" in told and "clipped to the image: 1" in told
    first, second = rows(out / "train.parquet")
    truth = json.loads(first["reward_model"]["ground_truth"])
    assert truth["boxes"] == [[0.0, 0.0, 0.1, 0.2], [0.25, 0.25, 0.75, 0.75]]
    assert truth["labels"] == ["nodule", "nodule"] and truth["frame"] == [40, 20]
    assert "nodule" in first["prompt"][0]["content"] and "pleural effusion" in second["prompt"][0]["content"]
    assert json.loads(second["reward_model"]["ground_truth"])["boxes"] == [[0.75, 0.5, 1.0, 1.0]]
    assert first["images"][0]["image"].endswith("/films/p1_x.png")
    assert first["extra_info"]["patient_id"] == "p1_x" and first["data_source"] == "coco/grounding"
    assert not (out / "problems.jsonl").exists()


def add_annotation(**changes):
    def damage(content, _films):
        content["annotations"].append({"id": 9, "image_id": 1, "category_id": 6, "bbox": [1, 1, 5, 5], **changes})

    return damage


def change_image(**changes):
    return lambda content, _films: content["images"][1].update(changes)


def drop_key(part, key):
    return lambda content, _films: content[part][0].pop(key)


def write_image(make):
    return lambda _content, films: make(films / "p2_x.png")


def sixteen_bits(path):
    Image.fromarray(np.zeros((20, 40), np.uint16)).save(path)


def cut_short(path):
    noise = np.random.default_rng(0).integers(0, 255, (20, 40), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:400])


DAMAGES = {
    "not finite": (add_annotation(bbox=[math.nan, 1, 2, 2]), "bad_box"),
    "infinite": (add_annotation(bbox=[1, 1, math.inf, 2]), "bad_box"),
    "huge integer": (add_annotation(bbox=[1, 1, 10**400, 2]), "bad_box"),
    "zero width": (add_annotation(bbox=[1, 1, 0, 2]), "bad_box"),
    "negative height": (add_annotation(bbox=[1, 1, 2, -2]), "bad_box"),
    "three numbers": (add_annotation(bbox=[1, 1, 2]), "bad_box"),
    "text": (add_annotation(bbox=["1", 1, 2, 2]), "bad_box"),
    "no list": (add_annotation(bbox=7), "bad_box"),
    "only overshoot": (add_annotation(bbox=[40, 1, 1, 2]), "box_outside"),
    "right of the image": (add_annotation(bbox=[30, 1, 12, 2]), "box_outside"),
    "left of the image": (add_annotation(bbox=[-2, 1, 12, 2]), "box_outside"),
    "crowd": (add_annotation(iscrowd=1), "crowd"),
    "unknown category": (add_annotation(category_id=99), "unknown_category"),
    "unknown image": (add_annotation(image_id=99), "unknown_image"),
    "annotation id twice": (add_annotation(id=1), "duplicate_id"),
    "image id twice": (lambda content, _: content["images"].append(dict(content["images"][0])), "duplicate_id"),
    "category twice": (lambda content, _: content["categories"].append({"id": 5, "name": "x"}), "duplicate_id"),
    "no bbox": (add_annotation(bbox=None), "bad_box"),
    "no file name": (drop_key("images", "file_name"), "missing_key"),
    "no category name": (drop_key("categories", "name"), "missing_key"),
    "size of zero": (change_image(width=0), "bad_size"),
    "size as text": (change_image(width="40"), "bad_size"),
    "other size": (change_image(width=41), "size_mismatch"),
    "missing file": (change_image(file_name="nowhere.png"), "missing_image"),
    "ambiguous file": (lambda content, _: content["images"][2].update(file_name="b/p1_x.png"), "missing_image"),
    "path outside": (change_image(file_name="../p2_x.png"), "unsafe_path"),
    "absolute path": (change_image(file_name="/etc/hostname"), "unsafe_path"),
    "no image": (write_image(lambda path: path.write_text("hello")), "unreadable_image"),
    "empty image": (write_image(lambda path: path.write_bytes(b"")), "unreadable_image"),
    "cut short": (write_image(cut_short), "unreadable_image"),
    "16 bits of one value": (write_image(sixteen_bits), "unreadable_image"),
}


@pytest.mark.parametrize(("damage", "kind"), DAMAGES.values(), ids=DAMAGES)
def test_every_problem_is_counted_listed_and_refused_under_strict(run, films, rows, damage, kind):
    content = copy.deepcopy(GOOD)
    damage(content, films)
    status, told, out = run(content, "--strict")
    assert status == 1 and kind in told and "--strict" in told
    assert list(out.iterdir()) == []
    status, told, out = run(content)
    assert status == 0 and f"{kind}: " in told
    assert kinds(out)[kind] >= 1
    assert 1 <= len(rows(out / "train.parquet")) <= 2


def test_a_finding_with_a_malformed_box_is_not_asked(run, rows):
    content = copy.deepcopy(GOOD)
    add_annotation(bbox=[1, 1, 0, 5])(content, None)
    _, _, out = run(content)
    assert [row["extra_info"]["id"] for row in rows(out / "train.parquet")] == ["2-pleural effusion"]
    assert kinds(out) == {"bad_box": 1, "incomplete_boxes": 1}


def test_categories_that_read_the_same_are_one_question(run, rows):
    content = copy.deepcopy(GOOD)
    content["categories"].append({"id": 7, "name": "nodule"})
    add_annotation(category_id=7)(content, None)
    _, _, out = run(content)
    first, _ = rows(out / "train.parquet")
    truth = json.loads(first["reward_model"]["ground_truth"])
    assert len(truth["boxes"]) == 3 and truth["labels"] == ["nodule"] * 3


def test_a_byte_order_mark_is_passed_over(run):
    assert run("\ufeff" + json.dumps(GOOD), "--strict")[0] == 0


@pytest.mark.parametrize("kind", ["16 bits", "DICOM", "webp"])
def test_other_films_are_read_too(run, films, rows, kind):
    path = films / "p2_x.png"
    if kind == "16 bits":
        film_files.png(path, film_files.pixels(40, 20))
    elif kind == "DICOM":
        film_files.dicom(path, film_files.pixels(40, 20))
    else:
        Image.fromarray(film_files.pixels(40, 20, bits=8)).save(path, "WEBP")
    status, _, out = run(GOOD, "--strict")
    second = rows(out / "train.parquet")[1]
    with Image.open(second["images"][0]["image"].removeprefix("file://")) as image:
        assert status == 0 and image.mode in ("L", "RGB") and image.size == (40, 20)


def test_shares_and_corners_are_refused(run):
    shares, corners = copy.deepcopy(GOOD), copy.deepcopy(GOOD)
    for entry in shares["annotations"]:
        entry["bbox"] = [0.1, 0.2, 0.3, 0.4]
    status, told, _ = run(shares)
    assert status == 1 and "shares of the image" in told
    for entry in corners["annotations"]:
        entry["bbox"] = [10, 5, 35, 19]
    status, told, _ = run(corners)
    assert status == 1 and "[x1, y1, x2, y2]" in told


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (lambda content: content["categories"][0].update(name="a\ud800"), "bad_text"),
        (lambda content: content["categories"][0].update(name="_"), "blank"),
        (lambda content: content["images"][1].update(id="\ud800"), "bad_text"),
        (lambda content: content["images"][1].update(file_name="\ud800.png"), "bad_text"),
        (lambda content: content["annotations"][2].update(image_id="\ud800"), "unknown_image"),
        (lambda content: content["annotations"][2].update(id="\ud800", bbox=["\ud800"]), "bad_box"),
    ],
)
@pytest.mark.parametrize("option", [[], ["--include-empty", "--negatives", "1"]])
def test_text_that_cannot_be_used_is_a_problem(run, rows, damage, kind, option):
    content = copy.deepcopy(GOOD)
    damage(content)
    status, _, out = run(content, *option)
    assert status == 0 and kinds(out)[kind] == 1
    assert "1-nodule" in {row["extra_info"]["id"] for row in rows(out / "train.parquet")}


@pytest.mark.parametrize("box_format", ["radvlm", "qwen25vl"])
def test_a_film_of_an_impossible_aspect_is_a_problem(run, films, box_format):
    content = copy.deepcopy(GOOD)
    content["images"][1].update(width=2000, height=9)
    content["annotations"][2]["bbox"] = [100, 2, 300, 5]
    Image.fromarray(np.zeros((9, 2000), np.uint8)).save(films / "p2_x.png")
    status, told, out = run(content, "--box-format", box_format)
    assert status == 0 and kinds(out) == {"unreadable_image": 1} and "over 200 times" in told


def test_negatives_are_categories_without_a_box(run, rows):
    content = copy.deepcopy(GOOD)
    add_annotation(image_id=3, iscrowd=1)(content, None)
    status, told, out = run(content, "--negatives", "5")
    found = {
        row["extra_info"]["id"]: bool(json.loads(row["reward_model"]["ground_truth"])["boxes"])
        for row in rows(out / "train.parquet")
    }
    assert status == 0 and "(right answer: nothing; earns 1 under quickstart, 0 under paper_grounding): 3" in told
    # A crowd of nodules is neither a box nor nothing.
    assert found == {
        "1-nodule": True,
        "1-pleural effusion": False,
        "2-nodule": False,
        "2-pleural effusion": True,
        "3-pleural effusion": False,
    }


def test_a_clean_run_removes_the_list_of_an_earlier_one(run):
    content = copy.deepcopy(GOOD)
    add_annotation(category_id=99)(content, None)
    assert kinds(run(content)[2])
    assert not kinds(run(GOOD)[2])


def test_images_without_boxes_can_be_asked_too(run, rows):
    content = copy.deepcopy(GOOD)
    content["annotations"][2]["bbox"] = [0, 0, 0, 0]
    _, _, out = run(content, "--include-empty")
    _, empty = rows(out / "train.parquet")
    # The image whose only box is unusable is not one without a finding.
    assert empty["extra_info"]["id"].startswith("3-")
    assert json.loads(empty["reward_model"]["ground_truth"])["boxes"] == []
    assert "no such finding" in rows(out / "sft_train.parquet")[1]["messages"][1]["content"].lower()


def test_a_regular_expression_finds_the_patient(run, rows):
    _, _, out = run(GOOD, "--patient-regex", r"(p\d)_")
    assert [row["extra_info"]["patient_id"] for row in rows(out / "train.parquet")] == ["p1", "p2"]
    status, _, out = run(GOOD, "--patient-regex", r"(p1)_")
    assert status == 0 and kinds(out) == {"no_patient": 2}


def test_splits(run, rows):
    _, _, out = run(GOOD, "--split", "test")
    assert [path.name for path in out.iterdir()] == ["test.parquet"]
    _, _, out = run(GOOD, "--split-by-hash", "0,1,0")
    assert {row["extra_info"]["split"] for row in rows(out / "val.parquet")} == {"val"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "'images'"),
        ('{"images": []}', "'categories'"),
        ('{"images": [], "categories": {}, "annotations": []}', "'categories'"),
        ('{"images": [1], "categories": [], "annotations": []}', "'images'"),
    ],
)
def test_a_file_that_is_not_coco_is_wrong_use(run, content, message):
    status, told, out = run(content)
    assert status == 2 and message in told and "boxes.json" in told
    assert list(out.iterdir()) == []


def test_broken_json_is_refused(run):
    status, told, out = run("{")
    assert status == 1 and "boxes.json is not valid JSON" in told and list(out.iterdir()) == []


def test_missing_inputs_are_wrong_use(tmp_path, capsys):
    out = str(tmp_path / "out")
    assert main(["coco", "--root", str(tmp_path / "no"), "--annotations", "x", "--out", out]) == 2
    assert f"{tmp_path / 'no'} is not a folder" in capsys.readouterr().err
    assert main(["coco", "--root", str(tmp_path), "--annotations", str(tmp_path / "no.json"), "--out", out]) == 2
    assert "no.json" in capsys.readouterr().err


def test_no_usable_sample_is_refused(run):
    status, told, _ = run({"images": [], "categories": [], "annotations": []})
    assert status == 1 and "not one usable sample" in told


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the three real TBX11K films")
def test_three_real_films(tmp_path, rows):
    arguments = ["coco", "--root", str(REAL), "--annotations", str(REAL / "TBX11K_train.json")]
    assert main([*arguments, "--out", str(tmp_path), "--strict", "--include-empty"]) == 0
    boxes = [json.loads(row["reward_model"]["ground_truth"])["boxes"] for row in rows(tmp_path / "train.parquet")]
    assert [len(some) for some in boxes] == [1, 2, 0]
    assert boxes[0][0] == pytest.approx([381.8337 / 512, 126.8734 / 512, 422.0706 / 512, 171.4392 / 512], abs=1e-6)
