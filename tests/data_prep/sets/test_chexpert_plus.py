import json
import shutil
from collections import Counter

import numpy as np
import pytest
from fixtures import chexpert_plus as fixture
from fixtures import films
from PIL import Image

from data_prep.cli import main

FIRST = "PNG/train/patient00001/study1/view2_frontal.png"


@pytest.fixture
def run(tmp_path, capsys):
    def convert(rows, *options, films=fixture.FILMS):
        root, out = fixture.write(tmp_path / "chexpert", films), tmp_path / "out"
        shutil.rmtree(out, ignore_errors=True)
        return convert_again(rows, root, out, *options)

    def convert_again(rows, root, out, *options):
        status = main(["chexpert_plus", "--root", str(root), "--out", str(out), *options])
        files = [out / f"{split}.parquet" for split in ("train", "val", "test")]
        written = {row["extra_info"]["id"]: row for file in files if file.exists() for row in rows(file)}
        return status, capsys.readouterr().err, written

    convert.again = convert_again
    return convert


def texts(written):
    return {name: json.loads(row["reward_model"]["ground_truth"])["report"] for name, row in written.items()}


def kinds(tmp_path):
    path = tmp_path / "out/problems.jsonl"
    return Counter(json.loads(line)["kind"] for line in path.read_text().splitlines()) if path.exists() else Counter()


def test_impressions_become_rows(run, rows, tmp_path):
    status, told, written = run(rows, "--strict")
    assert status == 0
    # One line of text, a space for each line break, and nothing of the boilerplate that follows.
    assert texts(written) == {
        "patient00001_study1": "1. NO EDEMA. 2. SMALL LEFT EFFUSION.",
        "patient00002_study1": "1. NORMAL CHEST.",
    }
    row = written["patient00001_study1"]
    assert row["images"][0]["image"] == f"file://{tmp_path}/chexpert/{FIRST}"  # PA before AP, PNG though it says jpg
    assert (row["extra_info"]["width"], row["extra_info"]["height"]) == fixture.SIZE
    assert row["extra_info"]["patient_id"] == "patient00001" and row["data_source"] == "chexpert_plus/report"
    assert (
        "reports without the section asked for (impression): 2" in told and "films from the side, left out: 1" in told
    )
    assert "images: 6 here, 223,462 as published" in told


def test_sections_and_splits(run, rows):
    _, _, written = run(rows, "--section", "findings")
    assert texts(written) == {
        "patient00002_study1": "THE LUNGS ARE CLEAR.",
        "patient64541_study1": "A LINE ENDS IN THE ATRIUM.",
    }
    assert written["patient64541_study1"]["extra_info"]["split"] == "val"
    _, _, written = run(rows, "--section", "both")
    assert texts(written) == {"patient00002_study1": "Findings: THE LUNGS ARE CLEAR. Impression: 1. NORMAL CHEST."}


def test_one_row_per_image(run, rows):
    _, _, written = run(rows, "--per", "image")
    names = {"patient00001_study1_view1_frontal", "patient00001_study1_view2_frontal"}
    assert set(written) == {*names, "patient00002_study1_view1_frontal"}


def deep(path):
    Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(40, 30) * 50).save(path)


def test_deep_images_are_converted(run, rows, tmp_path):
    run(rows)
    deep(tmp_path / "chexpert" / FIRST)
    status, _, written = run.again(rows, tmp_path / "chexpert", tmp_path / "out", "--strict")
    image = written["patient00001_study1"]["images"][0]["image"].removeprefix("file://")
    assert status == 0 and image.startswith(str(tmp_path / "out/images/"))
    with Image.open(image) as picture:
        assert picture.mode == "L" and picture.size == fixture.SIZE


def test_films_are_looked_for_in_every_form(run, rows, tmp_path):
    run(rows)
    root = tmp_path / "chexpert"
    (root / FIRST).unlink()
    film = root / "DICOM/train/patient00001/study1/view2_frontal.dcm"
    film.parent.mkdir(parents=True)
    films.dicom(film)
    (root / "PNG/train/patient00002").rename(root / "moved")
    (root / "train").mkdir()
    (root / "moved").rename(root / "train/patient00002")
    status, _, written = run.again(rows, root, tmp_path / "out", "--strict", "--store-pixels", "1200")
    converted, plain = (written[f"{study}_study1"] for study in ("patient00001", "patient00002"))
    assert status == 0 and "/out/images/" in converted["images"][0]["image"]
    assert (converted["extra_info"]["width"], converted["extra_info"]["height"]) == (30, 40)
    assert plain["images"][0]["image"] == f"file://{root}/train/patient00002/study1/view1_frontal.png"


def cut_short(path):
    deep(path)
    path.write_bytes(path.read_bytes()[:-40])


DAMAGES = {
    "missing": (lambda path: path.unlink(), "missing_image"),
    "cut short": (cut_short, "unreadable_image"),
    "no image": (lambda path: path.write_text("hello"), "unreadable_image"),
}


@pytest.mark.parametrize(("damage", "kind"), DAMAGES.values(), ids=DAMAGES)
def test_images_that_cannot_be_read(run, rows, tmp_path, damage, kind):
    root, out = fixture.write(tmp_path / "chexpert"), tmp_path / "out"
    damage(root / FIRST)
    status, told, written = run.again(rows, root, out, "--strict")
    assert status == 1 and kind in told and not written and list(out.iterdir()) == []
    status, _, written = run.again(rows, root, out)
    assert status == 0 and set(written) == {"patient00002_study1"} and kinds(tmp_path) == {kind: 1}


def changed(**changes):
    return [*fixture.FILMS, fixture.FILMS[1] | changes]


ENTRIES = {
    "path outside": (changed(path_to_image="train/../../etc/passwd"), "unsafe_path"),
    "absolute path": (changed(path_to_image="/etc/passwd"), "unsafe_path"),
    "row twice": (changed(), "duplicate_id"),
    "unknown split": (changed(path_to_image="train/patient00003/study1/view1_frontal.jpg", split="new"), "no_split"),
}


@pytest.mark.parametrize(("entries", "kind"), ENTRIES.values(), ids=ENTRIES)
def test_every_problem_is_counted_listed_and_refused_under_strict(run, rows, tmp_path, entries, kind):
    status, told, written = run(rows, "--strict", films=entries)
    assert status == 1 and kind in told and not written
    status, _, written = run(rows, films=entries)
    assert status == 0 and len(written) == 2 and kinds(tmp_path) == {kind: 1}


def test_missing_inputs_are_named(run, rows, tmp_path):
    status, told, _ = run.again(rows, tmp_path / "no", tmp_path / "out")
    assert status == 2 and f"{tmp_path / 'no'} is not a folder" in told
    (tmp_path / "empty").mkdir()
    status, told, _ = run.again(rows, tmp_path / "empty", tmp_path / "out")
    assert status == 2 and "df_chexpert_plus_240401.csv" in told


def context(rows, run, *, order="2"):
    later, first, side = (dict(fixture.FILMS[place]) for place in (0, 1, 3))
    later |= {"patient_report_date_order": order, "section_history": "\nCOUGH\n AND FEVER.\n"}
    side["patient_report_date_order"] = order
    first["path_to_image"] = "train/patient00001/study9/view1_frontal.jpg"
    root_films = [later, first, side, fixture.FILMS[4]]
    _, _, written = run(rows, "--context", "indication,prior,lateral", films=root_films)
    return written


def test_context(run, rows):
    written = context(rows, run)
    row = written["patient00001_study1"]
    names = [image["image"].rpartition("/")[2] for image in row["images"]]
    assert names == ["view1_frontal.png", "view3_lateral.png"]
    text = row["prompt"][0]["content"]
    assert "Indication for this examination: COUGH AND FEVER.\n" in text
    prior = "Findings: THE LUNGS ARE CLEAR. Impression: 1. NORMAL CHEST."
    assert f"Report of the previous examination: {prior}\n" in text
    for order in ("1", "1.0", "", "0"):
        assert "previous" not in context(rows, run, order=order)["patient00001_study1"]["prompt"][0]["content"]
