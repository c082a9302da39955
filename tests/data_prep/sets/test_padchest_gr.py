import functools
import json
from collections import Counter

import numpy as np
import pytest
from fixtures import films
from fixtures import padchest_gr as fixture
from PIL import Image


@pytest.fixture
def run(convert):
    return functools.partial(convert, "padchest_gr")


@pytest.fixture
def root(tmp_path):
    return fixture.write(tmp_path / "padchest-gr")


def truths(rows, path):
    return {row["extra_info"]["id"]: json.loads(row["reward_model"]["ground_truth"])["boxes"] for row in rows(path)}


def kinds(out):
    path = out / "problems.jsonl"
    return Counter(json.loads(line)["kind"] for line in path.read_text().splitlines()) if path.exists() else Counter()


def test_each_sentence_with_boxes_is_a_row_of_its_split(run, root, rows):
    status, told, out = run(root, "--strict")
    assert status == 0
    assert truths(rows, out / "train.parquet") == {
        "55501-1": [[0.1, 0.7, 0.4, 0.95], [0.6, 0.7, 0.9, 0.95]],
        "55501-2": [[0.25, 0.5, 0.75, 0.875]],
    }
    # `validation` is val; an overshoot of rounding is clipped.
    assert truths(rows, out / "val.parquet") == {"55503-0": [[0.5, 0.25, 0.625, 0.375]]}
    assert truths(rows, out / "test.parquet") == {"55504-0": [[0.0, 0.0, 1.0, 1.0]]}
    first = rows(out / "train.parquet")[0]
    assert first["extra_info"]["patient_id"] == "P1" and first["data_source"] == "padchest_gr/grounding"
    assert "Small effusions on both sides." in first["prompt"][0]["content"]
    assert "negative sentences without boxes, not used: 2" in told
    assert "positive sentences without boxes, not used: 1" in told
    assert "studies: 4 here, 4,555 as published" in told and "negative sentences: 2 here, 3,422" in told


def test_films_of_16_bits_are_stored_in_8(run, root, rows):
    _, _, out = run(root)
    stored = {row["images"][0]["image"] for row in rows(out / "train.parquet")}
    assert len(stored) == 1
    with Image.open(stored.pop().removeprefix("file://")) as image:
        assert image.mode == "L" and np.abs(np.asarray(image) - films.pixels() / 4095 * 255).max() <= 0.5001


def test_sentences_in_spanish(run, root, rows):
    _, _, out = run(root, "--language", "es")
    assert "Corazón grande." in rows(out / "train.parquet")[1]["prompt"][0]["content"]


def test_the_parents_table_keeps_frontal_films_only(run, root, tmp_path, rows):
    _, told, out = run(root, "--parent", fixture.parent(tmp_path / "padchest.csv"))
    assert {path.name for path in out.glob("*.parquet")} == {"train.parquet", "sft_train.parquet"}
    assert "films of projection L, not used: 1" in told and "films of projection AP_horizontal, not used: 1" in told


def test_the_films_may_lie_elsewhere(run, root, tmp_path, rows):
    (root / "PadChest_GR").rename(tmp_path / "unpacked")
    _, _, out = run(root, "--films", tmp_path / "unpacked", "--strict")
    assert len(rows(out / "train.parquet")) == 2


def test_valid_is_another_name_for_validation(run, root, rows):
    fixture.table(root / "master_table.csv", [(number, f"P{number}", "valid") for number in range(1, 5)])
    _, _, out = run(root, "--strict")
    assert len(rows(out / "val.parquet")) == 4


def test_a_patient_of_the_test_split_is_not_trained_on(run, root, rows):
    fixture.table(root / "master_table.csv", [(1, "P4", "train"), *fixture.PLACES[2:]])
    status, _, out = run(root)
    assert status == 0 and kinds(out) == {"leaked_patient": 1, "no_split": 1}
    assert not (out / "train.parquet").exists()


def add(*boxes, **changes):
    extra = fixture.study(3, *fixture.STUDIES[2]["findings"], fixture.finding("More.", "Más.", list(boxes)) | changes)
    return lambda root: fixture.reports(root, [*fixture.STUDIES[:2], extra, fixture.STUDIES[3]])


def study(**changes):
    return lambda root: fixture.reports(root, [*fixture.STUDIES[:3], {**fixture.STUDIES[3], **changes}])


def place(*row):
    return lambda root: fixture.table(root / "master_table.csv", [*fixture.PLACES, row])


def film(damage):
    return lambda root: damage(root / "PadChest_GR" / fixture.image_id(4))


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-1000])


DAMAGES = {
    "swapped corners": (add([0.5, 0.1, 0.2, 0.4]), "swapped_corners"),
    "not a number": (add([float("nan"), 0.1, 0.2, 0.4]), "bad_box"),
    "text": (add(["a", 0.1, 0.2, 0.4]), "bad_box"),
    "three numbers": (add([0.1, 0.2, 0.4]), "bad_box"),
    "no list": (add(boxes=0.5), "bad_box"),
    "pixels": (add([100, 200, 300, 400]), "box_outside"),
    "no sentence": (add([0.1, 0.1, 0.2, 0.4], sentence_en=" "), "blank"),
    "finding is no object": (study(findings=["text"]), "missing_key"),
    "no findings": (study(findings=None), "missing_key"),
    "no image": (study(ImageID=None), "missing_key"),
    "path for an image": (study(ImageID="../secret.png"), "unsafe_path"),
    "absolute path": (study(ImageID="/etc/hostname"), "unsafe_path"),
    "no study": (study(StudyID=None), "no_split"),
    "study twice": (lambda root: fixture.reports(root, [*fixture.STUDIES, fixture.STUDIES[0]]), "duplicate_id"),
    "unknown split": (place(5, "P5", "dev"), "bad_split"),
    "two splits of a study": (place(4, "P4", "train"), "split_conflict"),
    "missing film": (film(lambda path: path.unlink()), "missing_image"),
    "truncated film": (film(cut_short), "unreadable_image"),
    "bomb for a film": (film(films.bomb), "unreadable_image"),
    "blank film": (film(lambda path: films.png(path, np.full((9, 9), 500, np.uint16))), "unreadable_image"),
}


@pytest.mark.parametrize(("damage", "kind"), DAMAGES.values(), ids=DAMAGES)
def test_every_problem_is_counted_listed_and_refused_under_strict(run, root, rows, damage, kind):
    damage(root)
    status, told, out = run(root)
    assert status == 0 and kinds(out) == {kind: 1} and f"{kind}: 1" in told
    assert len(rows(out / "train.parquet")) == 2 and len(rows(out / "val.parquet")) == 1
    assert run(root, "--strict")[0] == 1


def test_a_sentence_with_a_malformed_box_is_not_asked(run, root, rows):
    add([0.1, 0.1, 0.2, 0.2], [0.3, 0.3, 0.2, 0.4])(root)
    _, _, out = run(root)
    assert kinds(out) == {"swapped_corners": 1, "incomplete_boxes": 1}
    assert set(truths(rows, out / "val.parquet")) == {"55503-0"}


@pytest.mark.parametrize("changes", [{"sentence_en": "a\ud800"}, {"labels": ["a\ud800"]}])
def test_half_of_a_surrogate_pair_is_a_problem(run, root, rows, changes):
    extra = fixture.study(3, fixture.finding("More.", "Más.", [[0.1, 0.1, 0.2, 0.2]]) | changes)
    (root / "grounded_reports_20240819.json").write_text(json.dumps([*fixture.STUDIES[:2], extra]))
    status, _, out = run(root, "--negatives", "1")
    assert status == 0 and sum(kinds(out).values()) == 1
    assert len(rows(out / "train.parquet")) == 2


def test_negatives_are_labels_that_a_negative_sentence_of_the_study_names(run, root, rows):
    heart, nodule = ({"labels": [name]} for name in ("cardiomegaly", "nodule"))
    box = [[0.1, 0.1, 0.2, 0.2]]
    findings = [
        fixture.finding("The heart is large.", "Corazón grande.", box, **heart),
        fixture.finding("No nodule, no cardiomegaly.", "Sin nódulos."),
        fixture.finding("Old fracture", "Fractura.", []),
    ]
    other = [fixture.finding("A nodule.", "Un nódulo.", box, **nodule), fixture.finding("No pneumothorax.", "Sin.")]
    third = fixture.study(3, fixture.finding("Known effusion without cardiomegaly.", "Sin."))
    fixture.reports(root, [fixture.study(1, *findings), fixture.study(2, *other), third])
    status, _, out = run(root, "--negatives", "9", "--strict")
    assert status == 0
    assert {row for row, boxes in truths(rows, out / "train.parquet").items() if not boxes} == {"55501-nodule"}
    assert set(truths(rows, out / "val.parquet")) == {"55503-cardiomegaly"}
    status, told, _ = run(root, "--negatives", "9", "--language", "es")
    assert status == 2 and "--language es" in told


def test_a_study_of_no_film_in_the_parents_table(run, root, tmp_path):
    path = fixture.parent(tmp_path / "padchest.csv")
    path.write_text(path.read_text().replace(fixture.image_id(1), "other.png"))
    status, told, _ = run(root, "--parent", path)
    assert status == 1 and "unknown_image: 1" in told


@pytest.mark.parametrize(
    ("name", "content", "status", "message"),
    [
        ("grounded_reports_20240819.json", b'[{"StudyID": ', 1, "grounded_reports"),
        ("grounded_reports_20240819.json", None, 2, "grounded_reports"),
        ("master_table.csv", b"StudyID,ImageID,split\n", 2, "no column PatientID"),
        ("master_table.csv", "StudyID,PatientID,split,é\n".encode("latin-1"), 1, "UTF-8"),
        ("master_table.csv", None, 2, "master_table.csv"),
    ],
)
def test_files_that_are_not_as_published_are_refused(run, root, name, content, status, message):
    (root / name).unlink() if content is None else (root / name).write_bytes(content)
    got, told, _ = run(root)
    assert got == status and message in told


def test_a_folder_that_is_not_there_is_wrong_use(run, tmp_path):
    status, told, _ = run(tmp_path / "nowhere")
    assert status == 2 and "--root" in told
