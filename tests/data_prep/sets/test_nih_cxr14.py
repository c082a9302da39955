import functools
import gzip
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from fixtures import films
from fixtures import nih_cxr14 as fixture

REAL = Path(os.environ.get("CXR_GRPO_REAL_DATA", Path(__file__).parents[4] / "shared/data/real"))


@pytest.fixture
def run(convert):
    return functools.partial(convert, "nih_cxr14")


@pytest.fixture
def root(tmp_path):
    root = fixture.write(tmp_path / "nih")
    fixture.boxes(root / "BBox_List_2017.csv")
    return root


def truths(rows, path):
    return {row["extra_info"]["id"]: json.loads(row["reward_model"]["ground_truth"])["boxes"] for row in rows(path)}


def kinds(out):
    path = out / "problems.jsonl"
    return Counter(json.loads(line)["kind"] for line in path.read_text().splitlines()) if path.exists() else Counter()


def test_boxes_are_shares_of_1024_whatever_the_size_of_the_copies(run, root, rows):
    status, told, out = run(root, "--strict")
    assert status == 0
    found = truths(rows, out / "test.parquet")
    assert found["00000001_000-cardiomegaly"] == [[0.25, 0.5, 0.75, 0.75]]
    assert found["00000001_000-effusion"] == pytest.approx(np.array([[0, 0.75, 0.125, 1], [0.875, 0.75, 1, 1]]))
    assert set(found) == {
        "00000001_000-cardiomegaly",
        "00000001_000-effusion",
        "00000001_001-nodule",
        "00027426_000-infiltrate",
    }
    row = rows(out / "test.parquet")[0]
    assert row["extra_info"]["patient_id"] == "00000001" and row["extra_info"]["width"] == 64
    assert row["data_source"] == "nih_cxr14/grounding" and "cardiomegaly" in row["prompt"][0]["content"]
    assert "boxes: 5 here, 984 as published" in told and "films: 3 here, 880" in told


@pytest.mark.parametrize("extra", ["", ",,,"])
def test_the_list_may_be_gzipped_elsewhere_and_the_films_in_their_archives(run, tmp_path, rows, extra):
    root = fixture.write(tmp_path / "nih", archives=True)
    listed = fixture.boxes(tmp_path / "list.csv.gz", [row + extra for row in fixture.ROWS])
    status, _, out = run(root, "--boxes", listed, "--split", "val", "--strict")
    assert status == 0 and len(rows(out / "val.parquet")) == 4


def test_the_official_list_says_what_is_for_testing(run, root, tmp_path, rows):
    (tmp_path / "test_list.txt").write_text("00027426_000.png\r\n00030000_000.png\r\n")
    _, _, out = run(root, "--test-list", tmp_path / "test_list.txt")
    assert set(truths(rows, out / "test.parquet")) == {"00027426_000-infiltrate"}
    assert len(rows(out / "train.parquet")) == 3
    (tmp_path / "test_list.txt").write_text("<html>\n")
    status, told, _ = run(root, "--test-list", tmp_path / "test_list.txt")
    assert status == 2 and "names no film" in told


def add(row):
    return lambda root: fixture.boxes(root / "BBox_List_2017.csv", [*fixture.ROWS, row])


def film(damage):
    return lambda root: damage(root / "00027426_000.png")


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-1000])


DAMAGES = {
    "not a number": (add("00000001_000.png,Mass,nan,1,2,3"), "bad_box"),
    "text": (add("00000001_000.png,Mass,left,1,2,3"), "bad_box"),
    "too few fields": (add("00000001_000.png,Mass,1,2,3"), "bad_box"),
    "only a name": (add("00000001_000.png"), "blank"),
    "negative width": (add("00000001_000.png,Mass,100,1,-50,3"), "bad_box"),
    "box outside": (add("00000001_000.png,Mass,1000,1,50,3"), "box_outside"),
    "no finding": (add("00000001_000.png,,1,2,3,4"), "blank"),
    "path": (add("../00000001_000.png,Mass,1,2,3,4"), "unsafe_path"),
    "absolute path": (add("/etc/hostname,Mass,1,2,3,4"), "unsafe_path"),
    "missing film": (add("00000009_000.png,Mass,1,2,3,4"), "missing_image"),
    "cropped film": (film(lambda path: films.png(path, films.pixels(64, 60, bits=8))), "size_mismatch"),
    "truncated film": (film(cut_short), "unreadable_image"),
    "bomb for a film": (film(films.bomb), "unreadable_image"),
}


@pytest.mark.parametrize(("damage", "kind"), DAMAGES.values(), ids=DAMAGES)
def test_every_problem_is_counted_listed_and_refused_under_strict(run, root, rows, damage, kind):
    damage(root)
    status, told, out = run(root)
    assert status == 0 and kinds(out) == {kind: 1} and f"{kind}: 1" in told
    assert 3 <= len(rows(out / "test.parquet")) <= 4
    assert run(root, "--strict")[0] == 1


def test_a_row_given_twice_counts_once(run, root, rows):
    add(fixture.ROWS[0])(root)
    _, told, out = run(root)
    assert "given twice, used once: 1" in told and len(truths(rows, out / "test.parquet")) == 4


def test_negatives_are_findings_that_no_box_and_no_label_names(run, root, rows):
    labels = ["00000001_000.png,Cardiomegaly|Effusion", "00000001_001.png,Infiltration|Nodule", "00027426_000.png,Mass"]
    (root / "Data_Entry_2017.csv").write_text("Image Index,Finding Labels\n" + "\n".join(labels) + "\n")
    status, _, out = run(root, "--negatives", "9", "--strict")
    assert status == 0
    absent = {name for name, boxes in truths(rows, out / "test.parquet").items() if not boxes}
    assert absent == {
        "00000001_000-infiltrate",
        "00000001_000-nodule",
        "00000001_001-cardiomegaly",
        "00000001_001-effusion",
        "00027426_000-cardiomegaly",
        "00027426_000-effusion",
        "00027426_000-nodule",
    }
    (root / "Data_Entry_2017.csv").unlink()
    status, told, _ = run(root, "--negatives", "9")
    assert status == 2 and "--labels" in told and "Data_Entry_2017.csv" in told


def test_a_finding_with_a_malformed_box_is_not_asked(run, root, rows):
    add("00000001_000.png,Effusion,100,1,-50,3")(root)
    _, _, out = run(root)
    assert kinds(out) == {"bad_box": 1, "incomplete_boxes": 1}
    assert "00000001_000-effusion" not in truths(rows, out / "test.parquet")


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"Image,Label,x,y,w,h\n", 2, "Image Index"),
        (b"", 2, "Image Index"),
        (b"\xff\xfe\x00", 1, "UTF-8"),
        (None, 2, "BBox_List_2017.csv"),
    ],
)
def test_a_list_that_is_not_as_published_is_refused(run, root, content, status, message):
    path = root / "BBox_List_2017.csv"
    path.unlink() if content is None else path.write_bytes(content)
    got, told, _ = run(root)
    assert got == status and message in told


def test_a_folder_that_is_not_there_is_wrong_use(run, tmp_path):
    status, told, _ = run(tmp_path / "nowhere")
    assert status == 2 and "--root" in told


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the real list of boxes")
def test_all_real_boxes_are_in_range(run, tmp_path, rows):
    listed = gzip.decompress((REAL / "BBox_List_2017.csv.gz").read_bytes()).decode().splitlines()[1:]
    any_film = films.png(tmp_path / "film.png", films.pixels(256, 256, bits=8))
    (tmp_path / "films").mkdir()
    for name in {line.split(",")[0] for line in listed}:
        (tmp_path / "films" / name).symlink_to(any_film)
    status, told, out = run(tmp_path / "films", "--boxes", REAL / "BBox_List_2017.csv.gz", "--strict")
    assert status == 0 and "as published" not in told and "clipped" not in told
    boxes = [box for found in truths(rows, out / "test.parquet").values() for box in found]
    assert len(boxes) == 984 and min(map(min, boxes)) >= 0 and max(map(max, boxes)) <= 1
