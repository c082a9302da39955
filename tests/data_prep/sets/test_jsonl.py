import json
from collections import Counter

import numpy as np
import pytest
from fixtures.films import film_boxes
from PIL import Image

from data_prep.cli import main
from data_prep.sets import jsonl


@pytest.fixture
def run(tmp_path, capsys, rows):
    """Runs the command on the objects; gives status, messages, RL rows by id, and problems by kind."""
    Image.fromarray(np.full((20, 40), 90, np.uint8)).save(tmp_path / "a.png")

    def convert(objects, *options):
        path, out = tmp_path / "mine.jsonl", tmp_path / "out"
        path.write_text("".join(json.dumps(entry) + "\n" for entry in objects))
        arguments = ["--root", str(tmp_path), "--annotations", str(path), "--out", str(out)]
        status = main(["jsonl", *arguments, *options])
        files = [out / f"{split}.parquet" for split in ("train", "val", "test")]
        found = {row["extra_info"]["id"]: row for file in files if file.exists() for row in rows(file)}
        listed = (out / "problems.jsonl").read_text() if (out / "problems.jsonl").exists() else ""
        kinds = Counter(json.loads(line)["kind"] for line in listed.splitlines())
        return status, capsys.readouterr().err, found, kinds

    return convert


def report(**changes):
    return {"id": "r", "patient_id": "p1", "image": "a.png", "report": "Clear.", **changes}


def phrase(**changes):
    boxes = {"phrase": "nodule", "boxes": [[0.1, 0.2, 0.3, 0.4]]}
    return {"id": "g", "patient_id": "p1", "image": "a.png", **boxes, **changes}


def nested(levels):
    value = 7
    for _ in range(levels):
        value = [value]
    return value


def truth(row):
    return json.loads(row["reward_model"]["ground_truth"])


def test_reports_and_boxes(run):
    entries = [
        report(kind="impression", question="Sum it up.", split="val", patient_id="p2"),
        phrase(labels=["mass"], kind="detection"),
        phrase(id="none", boxes=[], kind="anatomy"),
        phrase(id="null", question=None, comment="mine"),
    ]
    status, told, found, kinds = run(entries, "--strict", "--name", "ours")
    assert status == 0 and not kinds and "unknown key 'comment': 1" in told
    assert found["r"]["prompt"][0]["content"] == "<image>\nSum it up." and found["r"]["extra_info"]["split"] == "val"
    assert found["g"]["data_source"] == "ours/grounding" and truth(found["g"])["labels"] == ["mass"]
    assert truth(found["none"])["boxes"] == [] and truth(found["null"])["labels"] == ["nodule"]


def test_boxes_in_pixels(run):
    found = run([phrase(boxes=[[4, 4, 12, 8.0]])], "--box-unit", "pixel")[2]
    assert np.allclose(truth(found["g"])["boxes"], [[0.1, 0.2, 0.3, 0.4]])


def test_splits_by_patient(run):
    entries = [report(id=f"{p}-{n}", patient_id=f"p{p}") for p in range(30) for n in range(2)]
    found = run(entries, "--split-by-hash", "0.5,0.25,0.25")[2]
    splits = {name: row["extra_info"]["split"] for name, row in found.items()}
    assert len(found) == 60 and set(splits.values()) == {"train", "val", "test"}
    assert all(splits[f"{p}-0"] == splits[f"{p}-1"] for p in range(30))


def test_a_patient_in_two_splits_is_refused(run, tmp_path):
    status, told, _, _ = run([report(), report(id="s", split="test")])
    assert status == 1 and "patient 'p1' is in two splits, train and, with sample 's', test" in told
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("broken", "kind"),
    [
        (report(id=None), "bad_record"),
        (report(patient_id=""), "bad_record"),
        (report(patient_id=7), "bad_record"),
        (report(report=" "), "bad_record"),
        (report(report=None), "bad_record"),
        (report(phrase="nodule", boxes=[]), "bad_record"),
        (phrase(boxes=None), "bad_record"),
        (report(kind="phrase"), "bad_record"),
        (report(split="validate"), "bad_record"),
        (report(id="good"), "duplicate_id"),
        (report(image="b.png"), "missing_image"),
        (report(image="../a.png"), "unsafe_path"),
        (phrase(boxes=[[0.3, 0.2, 0.1, 0.4]]), "swapped_corners"),
        (phrase(boxes=[[0.1, 0.2, 0.3, 1.4]]), "bad_box"),
        (phrase(boxes=[[0.1, 0.2, 0.3, float("nan")]]), "bad_box"),
        (phrase(boxes=[[0.1, 0.2, 0.3, float("inf")]]), "bad_box"),
        (phrase(boxes=[[0.1, 0.2, 0.3]]), "bad_box"),
        (phrase(boxes=[[0.1, 0.2, 0.3, "0.4"]]), "bad_box"),
        (phrase(boxes=[[0.1, 0.2, 0.3, True]]), "bad_box"),
        (phrase(boxes=[[0.1, 0.2, 0.3, 10**400]]), "bad_box"),
        (phrase(boxes=[3]), "bad_box"),
        (phrase(boxes={"x": 1}), "bad_box"),
        (phrase(labels=[]), "bad_box"),
        (phrase(labels="nodule"), "bad_box"),
        *((report(report=text), "bad_record") for text in ("None", "nan", "...", "N/A")),
        *((report(**{key: "half \ud83d"}), "bad_json") for key in ("id", "patient_id", "image", "report")),
        (phrase(labels=["\udc00"]), "bad_json"),
        (report(**{"\ud800": 1}), "bad_json"),
        (report(comment=nested(100)), "bad_json"),
        (report(comment=nested(900)), "bad_json"),
        (report(id=nested(40)), "bad_record"),
    ],
)
def test_what_cannot_be_used_is_listed_and_refused_under_strict(run, broken, kind):
    status, _, found, kinds = run([report(id="good"), broken])
    assert status == 0 and kinds == {kind: 1} and list(found) == ["good"]
    assert run([report(id="good"), broken], "--strict")[0] == 1


def test_json_nested_beyond_what_python_reads_is_listed(run, tmp_path):
    deep = "[" * 100_000 + "]" * 100_000
    (tmp_path / "deep.jsonl").write_text(json.dumps(report()) + f'\n{{"id": {deep}}}\n{deep}\n')
    status, told, found, kinds = run([], "--annotations", str(tmp_path / "deep.jsonl"))
    assert status == 0 and list(found) == ["r"] and kinds == {"bad_json": 2} and "line 2" in told


@pytest.mark.parametrize(
    ("box", "unit", "kind", "hint"),
    [
        ([0.1, 0.2, 0.3, 0.4], "pixel", "bad_box", "if it is in shares of the image, leave --box-unit out"),
        ([4, 4, 12, 8], "share", "bad_box", "larger than 1; if it is in pixels, give --box-unit pixel"),
        ([0.5, 0.5, 0.2, 0.1], "share", "swapped_corners", "give the right and bottom edge, not width and height"),
        ([4, 4, 50, 8], "pixel", "bad_box", "is outside the 40 x 20 image"),
    ],
)
def test_a_box_in_another_unit_says_what_to_do(run, box, unit, kind, hint):
    status, told, _, kinds = run([report(), phrase(boxes=[box])], "--box-unit", unit)
    assert status == 0 and kinds == {kind: 1} and hint in told


@pytest.mark.parametrize("unit", ["share", "pixel"])
def test_width_and_height_instead_of_corners_are_refused(run, unit):
    across, down = (40, 20) if unit == "pixel" else (1, 1)
    corners = [(x1 * across, y1 * down, x2 * across, y2 * down) for x1, y1, x2, y2 in film_boxes(100)]

    def run_with(boxes, *options):
        return run([phrase(id=f"g{i}", boxes=[box]) for i, box in enumerate(boxes)], "--box-unit", unit, *options)

    assert run_with(corners)[0] == 0
    sides = [(x1, y1, x2 - x1, y2 - y1) for x1, y1, x2, y2 in corners]
    status, told, _, _ = run_with(sides)
    assert status == 1 and "as [x, y, width, height] too, so that is probably what they are" in told
    status, _, found, kinds = run_with(sides, "--trust-boxes")
    assert status == 0 and len(found) > 0 and kinds["swapped_corners"] > 50
    # Corners that are truly swapped are listed: the other boxes show that the form is right.
    swapped = [(x2, y2, x1, y1) for x1, y1, x2, y2 in corners[:40]]
    status, _, found, kinds = run_with([*swapped, *corners[40:]])
    assert status == 0 and kinds == {"swapped_corners": 40} and len(found) == 60


def test_a_byte_order_mark_is_read(run, tmp_path):
    for mark, content in (("lines", json.dumps(report())), ("list", json.dumps([report()]))):
        path = tmp_path / f"{mark}.json"
        path.write_text("\ufeff" + content, encoding="utf-8")
        assert list(run([], "--annotations", str(path), "--strict")[2]) == ["r"]


def test_help_lists_the_keys(capsys):
    with pytest.raises(SystemExit):
        main(["jsonl", "--help"])
    told = capsys.readouterr().out
    assert all(f"`{key}`" in told for key in jsonl._KEYS) and "(default: share)" in told
    assert '{"id": "a1", "patient_id": "p7"' in told


def test_a_missing_folder_is_wrong_use(run):
    status, told, _, _ = run([report()], "--root", "nowhere")
    assert status == 2 and "--root nowhere is not a folder" in told
