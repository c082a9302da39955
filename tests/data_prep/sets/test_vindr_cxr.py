import builtins
import functools
import gzip
import json
from collections import Counter

import numpy as np
import pytest
from fixtures import films
from fixtures import vindr_cxr as fixture
from PIL import Image


@pytest.fixture
def run(convert):
    return functools.partial(convert, "vindr_cxr")


@pytest.fixture
def root(tmp_path):
    return fixture.write(tmp_path / "vindr")


def truths(rows, path):
    return {row["extra_info"]["id"].lstrip("0"): json.loads(row["reward_model"]["ground_truth"]) for row in rows(path)}


def kinds(out):
    path = out / "problems.jsonl"
    return Counter(json.loads(line)["kind"] for line in path.read_text().splitlines()) if path.exists() else Counter()


def test_readers_boxes_are_fused_by_film_and_finding(run, root, rows):
    status, told, out = run(root)
    assert status == 0 and not kinds(out)
    train = truths(rows, out / "train.parquet")
    assert {row: truth["boxes"] for row, truth in train.items()} == {
        # The mean of two boxes that overlap; boxes apart stay two; a reader without findings does not count.
        "1-cardiomegaly": [[0.275, 0.5, 0.75, 0.775]],
        "1-nodule/mass": [[0.05, 0.1, 0.15, 0.2], [0.75, 0.1, 0.9, 0.2]],
        "3-ILD": [[0.0, 0.0, 0.5, 0.5]],
    }
    assert truths(rows, out / "test.parquet")["4-aortic enlargement"]["boxes"] == [[0.5, 0.1, 0.75, 0.5]]
    first = rows(out / "train.parquet")[0]
    assert first["data_source"] == "vindr_cxr/grounding" and first["extra_info"]["patient_id"] == fixture.image_id(1)
    assert "cardiomegaly" in first["prompt"][0]["content"]
    assert "on which another reader saw none: 1" in told
    # Published counts are compared.
    assert "films of train: 3 here, 15,000 as published" in told and "readings of train: 9 here, 45,000" in told


def test_films_are_stored_upright_in_8_bits_with_their_size(run, root, rows):
    _, _, out = run(root)
    # The test film, with an even number, is MONOCHROME1.
    for split, size, sign in (("train", (40, 80), 1), ("test", (60, 50), -1)):
        row = rows(out / f"{split}.parquet")[0]
        assert (row["extra_info"]["width"], row["extra_info"]["height"]) == size
        with Image.open(row["images"][0]["image"].removeprefix("file://")) as image:
            assert image.mode == "L" and image.size == size
            stored = np.asarray(image).ravel()
        assert sign * np.corrcoef(stored, films.pixels(*size).ravel())[0, 1] > 0.999


def test_boxes_stay_right_when_films_are_stored_smaller(run, root, rows):
    _, _, out = run(root, "--store-pixels", 800, "--workers", 2)
    row = rows(out / "train.parquet")[0]
    assert (row["extra_info"]["width"], row["extra_info"]["height"]) == (20, 40)
    assert truths(rows, out / "train.parquet")["1-cardiomegaly"]["boxes"] == [[0.275, 0.5, 0.75, 0.775]]


def test_detection_names_all_findings_and_asks_films_without_any(run, root, rows):
    status, _, out = run(root, "--task", "detection")
    assert status == 0
    train = truths(rows, out / "train.parquet")
    assert {row: truth["labels"] for row, truth in train.items()} == {
        "1-detection": ["nodule/mass", "cardiomegaly", "nodule/mass"],
        "2-detection": [],
        "3-detection": ["ILD"],
    }
    assert set(truths(rows, out / "test.parquet")) == {"4-detection", "5-detection"}


def test_both_tasks_share_one_stored_film(run, root, rows):
    _, _, out = run(root, "--task", "both")
    both = rows(out / "train.parquet")
    assert len(both) == 6 and len({row["images"][0]["image"] for row in both}) == 3


def test_a_share_of_the_training_films_can_be_for_validation(run, root, rows):
    _, _, out = run(root, "--val-share", "1")
    assert not (out / "train.parquet").exists() and (out / "test.parquet").exists()
    assert {row["extra_info"]["split"] for row in rows(out / "val.parquet")} == {"val"}


def test_copies_that_spell_rad_id_otherwise(run, tmp_path, rows):
    _, _, out = run(fixture.write(tmp_path / "other", reader="rad_ID"))
    assert len(rows(out / "train.parquet")) == 3


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("sizes", ["json", "csv", "Rows,Columns", "height,width"])
def test_kaggles_table_with_smaller_copies_and_their_original_sizes(run, tmp_path, rows, suffix, sizes):
    root, copies = fixture.kaggle(tmp_path / "kaggle"), fixture.copies(tmp_path / "copies", suffix)
    if sizes == "json":
        path = fixture.sizes_json(tmp_path / "sizes.json")
    else:
        path = fixture.sizes_csv(tmp_path / "sizes.csv", *([sizes.split(",")] if "," in sizes else []))
    status, _, out = run(root, "--films", copies, "--sizes", path, "--strict")
    assert status == 0
    truth = truths(rows, out / "train.parquet")
    assert truth["1-cardiomegaly"]["boxes"] == [[0.275, 0.5, 0.75, 0.775]] and "3-ILD" in truth
    assert rows(out / "train.parquet")[0]["images"][0]["image"] == f"file://{copies}/{fixture.image_id(1)}{suffix}"


def test_squeezed_copies_are_right_in_shares_and_told(run, tmp_path, rows):
    root, copies = fixture.kaggle(tmp_path / "kaggle"), fixture.copies(tmp_path / "copies", size=(32, 32))
    _, told, out = run(root, "--films", copies, "--sizes", fixture.sizes_json(tmp_path / "sizes.json"))
    assert truths(rows, out / "train.parquet")["1-cardiomegaly"]["boxes"] == [[0.275, 0.5, 0.75, 0.775]]
    assert "squeezed to another aspect: 2" in told


def test_sizes_with_the_width_first_are_noticed(run, tmp_path):
    swapped = {image: [width, height] for image, (width, height) in fixture.SIZES.items()}
    (tmp_path / "sizes.json").write_text(json.dumps(swapped))
    root, copies = fixture.kaggle(tmp_path / "kaggle"), fixture.copies(tmp_path / "copies")
    status, told, _ = run(root, "--films", copies, "--sizes", tmp_path / "sizes.json")
    assert status == 1 and "rows and columns are swapped" in told


def test_copies_need_the_size_of_the_originals(run, root, tmp_path, rows):
    copies = fixture.copies(tmp_path / "copies", size=(40, 80))
    status, told, _ = run(root, "--films", copies)
    assert status == 2 and "--sizes" in told and f"{fixture.image_id(1)}.png" in told
    status, _, out = run(root, "--films", copies, "--sizes", "copies", "--limit", "1")
    assert status == 0 and len(rows(out / "train.parquet")) == 1


def add(image, finding, *box, reader="R4", table="train"):
    rows, reader_column = (fixture.TRAIN, "rad_id") if table == "train" else (fixture.TEST, None)
    row = (fixture.image_id(image) if isinstance(image, int) else image, reader, finding, box)
    return lambda root: fixture.table(root / f"annotations/annotations_{table}.csv", [*rows, row], reader_column)


def film(damage):
    return lambda root: damage(root / f"train/{fixture.image_id(3)}.dicom")


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-1000])


DAMAGES = {
    "swapped corners": (add(1, "ILD", "30", "10", "20", "20"), "swapped_corners"),
    "not a number": (add(1, "ILD", "nan", "10", "20", "20"), "bad_box"),
    "text": (add(1, "ILD", "left", "10", "20", "20"), "bad_box"),
    "box outside": (add(1, "ILD", "10", "10", "20", "100"), "box_outside"),
    "finding without a box": (add(1, "ILD", "", "", "", ""), "bad_box"),
    "box without a finding": (add(1, "", "1", "1", "2", "2"), "blank"),
    "half a box": (add(1, "ILD", "10", "10", "", ""), "bad_box"),
    "box of no finding": (add(2, "No finding", "10", "10", "20", "20"), "unexpected_box"),
    "film in both tables": (add(1, "ILD", "1", "1", "2", "2", table="test"), "film_in_two_splits"),
    "unknown film": (add(9, "ILD", "1", "1", "2", "2"), "missing_image"),
    "path for a film": (add("../../secret", "ILD", "1", "1", "2", "2"), "unsafe_path"),
    "absolute path": (add("/etc/hostname", "ILD", "1", "1", "2", "2"), "unsafe_path"),
    "truncated film": (film(cut_short), "unreadable_image"),
    "web page for a film": (film(lambda path: path.write_text("<html>")), "unreadable_image"),
    "bomb for a film": (film(films.bomb), "unreadable_image"),
    "missing film": (film(lambda path: path.unlink()), "missing_image"),
}


@pytest.mark.parametrize(("damage", "kind"), DAMAGES.values(), ids=DAMAGES)
def test_every_problem_is_counted_listed_and_refused_under_strict(run, root, rows, damage, kind):
    damage(root)
    status, told, out = run(root)
    assert status == 0 and kinds(out) == {kind: 1} and f"{kind}: 1" in told
    assert 2 <= len(rows(out / "train.parquet")) <= 3
    assert run(root, "--strict")[0] == 1


def test_a_row_given_twice_counts_once(run, root, rows):
    fixture.table(root / "annotations/annotations_train.csv", [*fixture.TRAIN, fixture.TRAIN[0], fixture.TRAIN[0]])
    _, told, out = run(root)
    assert "given twice by one reader, used once: 2" in told
    assert truths(rows, out / "train.parquet")["1-cardiomegaly"]["boxes"] == [[0.275, 0.5, 0.75, 0.775]]


@pytest.mark.parametrize("row", [("Edema", "30", "10", "20", "20"), (" ", "10", "10", "20", "20")])
def test_a_film_with_an_unusable_finding_is_no_gold_for_detection(run, root, rows, row):
    add(3, *row)(root)
    _, _, out = run(root, "--task", "detection")
    assert set(truths(rows, out / "train.parquet")) == {"1-detection", "2-detection"}


def test_boxes_too_thin_for_three_decimals_are_kept(run, tmp_path, monkeypatch, rows):
    monkeypatch.setitem(fixture.SIZES, fixture.image_id(1), (4000, 80))
    row = (fixture.image_id(1), "R1", "Calcification", ("1000", "10", "1001", "20"))
    _, _, out = run(fixture.write(tmp_path / "wide", [row]))
    assert truths(rows, out / "train.parquet")["1-calcification"]["boxes"] == [[0.25, 0.125, 0.2502, 0.25]]


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"image_id,class_name,x_min,y_min,x_max\n", 2, "no column y_max"),
        (b"", 2, "no column"),
        (b"\xff\xfe\x00i", 1, "UTF-8"),
        (b"image_id,class_name,x_min,y_min,x_max,y_max\na,ILD,1\n", 1, "line 2"),
    ],
)
def test_a_table_that_is_not_as_published_is_refused(run, root, content, status, message):
    (root / "annotations/annotations_train.csv").write_bytes(content)
    got, told, out = run(root)
    assert got == status and message in told and "annotations_train.csv" in told
    assert not list(out.iterdir())


def test_missing_inputs_are_wrong_use(run, tmp_path, root, monkeypatch):
    status, told, _ = run(tmp_path / "nowhere")
    assert status == 2 and "annotations_train.csv" in told
    status, told, _ = run(root, "--films", root, "--sizes", tmp_path / "no.json")
    assert status == 2 and "no.json" in told
    (tmp_path / "list.json").write_text("[1]")
    status, told, _ = run(root, "--sizes", tmp_path / "list.json")
    assert status == 1 and "[rows, columns]" in told
    real = builtins.__import__

    def without(name, *rest):
        if name == "ensemble_boxes":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    status, told, _ = run(root)
    assert status == 2 and "fusion" in told


def test_tables_may_be_gzipped(run, root, tmp_path, rows):
    for table in (root / "annotations").iterdir():
        table.with_name(f"{table.name}.gz").write_bytes(gzip.compress(table.read_bytes()))
        table.unlink()
    assert run(root)[0] == 0
    other = fixture.kaggle(tmp_path / "kaggle")
    (other / "train.csv.gz").write_bytes(gzip.compress((other / "train.csv").read_bytes()))
    (other / "train.csv").unlink()
    _, _, out = run(other, "--films", root, "--strict")
    assert len(rows(out / "train.parquet")) == 3


def test_a_finding_with_a_malformed_box_is_not_asked(run, root, rows):
    add(1, "Cardiomegaly", "30", "10", "20", "20")(root)
    _, _, out = run(root, "--negatives", "9")
    assert kinds(out) == {"swapped_corners": 1, "incomplete_boxes": 1}
    # Nor is it an absent one.
    assert not any("1-cardiomegaly" in row["extra_info"]["id"] for row in rows(out / "train.parquet"))


def test_negatives_are_findings_that_no_reader_of_the_film_boxed(run, root, rows):
    status, _, out = run(root, "--negatives", "1")
    assert status == 0
    train = truths(rows, out / "train.parquet")
    boxed = {row for row, truth in train.items() if truth["boxes"]}
    assert boxed == {"1-cardiomegaly", "1-nodule/mass", "3-ILD"}
    absent = sorted(set(train) - boxed)
    assert [row[:2] for row in absent] == ["1-", "2-", "3-"]
    assert {row[2:] for row in absent} <= {"cardiomegaly", "nodule/mass", "ILD", "aortic enlargement"}
    sft = rows(out / "sft_train.parquet")
    assert sum("no such finding" in row["messages"][1]["content"] for row in sft) == 3
    assert truths(rows, run(root, "--negatives", "1")[2] / "train.parquet") == train


def test_detection_rows_without_a_box_are_counted(run, root):
    _, told, _ = run(root, "--task", "detection")
    assert "(right answer: nothing; earns 1 under quickstart, 0 under paper_grounding): 2" in told


def test_shares_instead_of_pixels_are_refused(run, root):
    rows = [
        (image, who, finding, box if not any(box) else ("0.1", "0.2", "0.5", "0.9"))
        for image, who, finding, box in fixture.TRAIN
    ]
    fixture.table(root / "annotations/annotations_train.csv", rows)
    status, told, _ = run(root)
    assert status == 1 and "annotations_train.csv" in told and "shares of the image" in told


def test_width_and_height_instead_of_corners_are_refused(run, root):
    width, height = fixture.SIZES[fixture.image_id(1)]
    rows = [
        (fixture.image_id(1), "R8", f"Finding {i}", (x1 * width, y1 * height, (x2 - x1) * width, (y2 - y1) * height))
        for i, (x1, y1, x2, y2) in enumerate(films.film_boxes(100))
    ]
    fixture.table(root / "annotations/annotations_train.csv", rows)
    status, told, _ = run(root)
    assert status == 1 and "as [x, y, width, height] too, so that is probably what they are" in told
    status, _, out = run(root, "--trust-boxes")
    assert status == 0 and kinds(out)["swapped_corners"] > 50


@pytest.mark.parametrize(("side", "status"), [(14, 1), (36, 0)])
def test_boxes_in_pixels_of_smaller_copies_are_refused(run, root, side, status):
    rows = [(fixture.image_id(1), f"R{n}", "ILD", (str(n % 9), "2", str(side), str(side))) for n in range(120)]
    fixture.table(root / "annotations/annotations_train.csv", rows)
    fixture.table(root / "annotations/annotations_test.csv", fixture.TEST[1:], None)
    got, told, _ = run(root)
    assert got == status and ("pixels of other copies" in told) == bool(status)
