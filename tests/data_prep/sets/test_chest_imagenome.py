import json
import shutil
from collections import Counter

import pytest
from fixtures import chest_imagenome as fixture
from fixtures import mimic_cxr as mimic

from data_prep.cli import main
from data_prep.sets.chest_imagenome import FAILED, REGIONS

LAYOUTS = {
    "zip": fixture.write_zip,
    "flat zip": lambda root: fixture.write_zip(root, folder=""),
    "folder": fixture.write_folder,
    "folder in folder": lambda root: fixture.write_folder(root, twice=True),
}
FIRST = f"{fixture.FILMS[0][2]}_SceneGraph.json"


@pytest.fixture
def run(tmp_path, capsys):
    mimic.write_tables(tmp_path / "jpg")

    def convert(rows, annotations, *options):
        out = tmp_path / "out"
        shutil.rmtree(out, ignore_errors=True)
        arguments = ["--root", str(tmp_path / "jpg"), "--annotations", str(annotations), "--out", str(out)]
        status = main(["chest_imagenome", *arguments, *options])
        files = [out / f"{split}.parquet" for split in ("train", "val", "test")]
        written = {row["extra_info"]["id"]: row for file in files if file.exists() for row in rows(file)}
        return status, capsys.readouterr().err, written

    return convert


def kinds(tmp_path):
    path = tmp_path / "out/problems.jsonl"
    return Counter(json.loads(line)["kind"] for line in path.read_text().splitlines()) if path.exists() else Counter()


def boxes(row):
    return json.loads(row["reward_model"]["ground_truth"])["boxes"]


def damaged(*objects):
    """The scene graphs with other objects in the first one, or another text for it."""
    film = fixture.FILMS[0]
    parts = [fixture.part(film, name, box) | changes for name, box, changes in objects]
    return {**fixture.graphs(), FIRST: json.dumps(fixture.graph(film, parts))}


@pytest.mark.parametrize("write", LAYOUTS.values(), ids=LAYOUTS)
def test_regions_become_rows(run, rows, tmp_path, write):
    status, told, written = run(rows, write(tmp_path / "cig"), "--strict", "--regions", "29")
    assert status == 0 and len(written) == 8
    lung = written[f"{fixture.FILMS[0][2]}-right-lung"]
    assert boxes(lung) == [[254 / 2544, 0.0, 0.5, 0.5]]
    assert "right lung" in lung["prompt"][0]["content"]
    assert (lung["extra_info"]["width"], lung["extra_info"]["height"]) == (2544, 3056)
    assert lung["images"][0]["image"].endswith(f"/jpg/files/p10/p10000032/s50414267/{fixture.FILMS[0][2]}.jpg")
    assert lung["data_source"] == "chest_imagenome/grounding" and lung["extra_info"]["patient_id"] == "p10000032"
    # The second film is lower than it is wide: sizes are not those of the scene graph.
    assert boxes(written[f"{fixture.FILMS[1][2]}-right-lung"]) == [[254 / 3056, 0.0, 1272 / 3056, 1528 / 2544]]
    vein = written[f"{fixture.FILMS[0][2]}-svc"]
    assert boxes(vein) == [[0.0, 0.25, 0.5, 1.0]] and "SVC" in vein["prompt"][0]["content"]
    assert "boxes clipped to the image: 4" in told and "regions that are not asked for: 4" in told


def test_one_region_an_image_is_drawn_the_same_everywhere(run, rows, tmp_path):
    _, _, zipped = run(rows, fixture.write_zip(tmp_path / "zip"))
    _, _, unpacked = run(rows, fixture.write_folder(tmp_path / "folder"))
    assert len(zipped) == 4 and zipped.keys() == unpacked.keys()


def test_the_official_split_of_mimic_is_followed(run, rows, tmp_path):
    root = fixture.write_zip(tmp_path / "cig")
    moved = {"train": [*fixture.SPLITS["train"], fixture.FILMS[3]], "valid": fixture.SPLITS["valid"], "test": []}
    fixture.write_splits(root, moved)
    status, told, written = run(rows, root)
    splits = {name[:44]: row["extra_info"]["split"] for name, row in written.items()}
    assert splits[fixture.FILMS[3][2]] == "test" and splits[fixture.FILMS[2][2]] == "val"
    assert status == 0 and "in train by their own file, in test by MIMIC-CXR's, which is followed: 1" in told


def test_gold_and_failed_images_are_left_out(run, rows, tmp_path):
    root = fixture.write_zip(tmp_path / "cig")
    failed = (10000032, 50414267, min(FAILED), "AP", 1, 1)
    fixture.write_splits(root, {**fixture.SPLITS, "train": [*fixture.FILMS[:2], failed]}, avoid=fixture.FILMS[:1])
    status, told, written = run(rows, root, "--strict")
    assert status == 0 and {name[:44] for name in written} == {film[2] for film in fixture.FILMS[1:]}
    assert "gold set's patients, left out: 1" in told and "images without a film, left out: 1" in told


DAMAGES = {
    "swapped corners": (damaged(("svc", (500, 9, 100, 90), {})), "swapped_corners"),
    "no area": (damaged(("svc", (500, 9, 500, 90), {})), "swapped_corners"),
    "not a number": (damaged(("svc", (1, 2, 3, 4), {"original_x1": float("nan")})), "bad_box"),
    "text": (damaged(("svc", (1, 2, 3, 4), {"original_x1": "None"})), "bad_box"),
    "a truth value": (damaged(("svc", (1, 2, 3, 4), {"original_x1": True})), "bad_box"),
    "outside": (damaged(("svc", (-90, -90, -10, -10), {})), "box_outside"),
    "no corner": (damaged(("svc", (1, 2, 3, 4), {"original_y2": None})), "missing_key"),
    "no name": (damaged(("svc", (1, 2, 3, 4), {"bbox_name": None})), "missing_key"),
    "two boxes": (damaged(("svc", (1, 2, 3, 4), {}), ("svc", (1, 2, 3, 5), {})), "duplicate_region"),
    "no objects": ({**fixture.graphs(), FIRST: "{}"}, "unreadable_scene_graph"),
    "no object": ({**fixture.graphs(), FIRST: "[1]"}, "unreadable_scene_graph"),
    "no JSON": ({**fixture.graphs(), FIRST: '{"objects": ['}, "unreadable_scene_graph"),
    "too large": ({**fixture.graphs(), FIRST: " " * (17 << 20)}, "unreadable_scene_graph"),
    "missing": ({name: text for name, text in fixture.graphs().items() if name != FIRST}, "missing_scene_graph"),
}


@pytest.mark.parametrize(("contents", "kind"), DAMAGES.values(), ids=DAMAGES)
def test_every_problem_is_counted_listed_and_refused_under_strict(run, rows, tmp_path, contents, kind):
    root = fixture.write_zip(tmp_path / "cig", contents)
    status, told, written = run(rows, root, "--strict")
    assert status == 1 and kind in told and not written and list((tmp_path / "out").iterdir()) == []
    status, told, written = run(rows, root)
    assert status == 0 and kinds(tmp_path) == {kind: 1} and len(written) == 3


def test_the_same_box_twice_is_one_region(run, rows, tmp_path):
    contents = damaged(("svc", (1, 2, 3, 4), {}), ("svc", (1, 2, 3, 4), {}))
    status, _, written = run(rows, fixture.write_zip(tmp_path / "cig", contents), "--strict")
    assert status == 0 and f"{fixture.FILMS[0][2]}-svc" in written


def test_negatives_are_findings_that_the_report_denies(run, rows, tmp_path):
    film = fixture.FILMS[0]
    graph = fixture.graph(film)
    said = [
        ["nlp|yes|abnormal", "anatomicalfinding|yes|lung opacity", "anatomicalfinding|no|pneumothorax"],
        ["anatomicalfinding|no|pleural effusion", "disease|no|pneumonia"],
    ]
    elsewhere = [["anatomicalfinding|no|lung opacity", "anatomicalfinding|no|Bad\ud800"]]
    graph["attributes"] = [{"bbox_name": "right lung", "attributes": said}, {"attributes": elsewhere}, None]
    contents = {**fixture.graphs(), FIRST: json.dumps(graph)}
    status, _, written = run(rows, fixture.write_zip(tmp_path / "cig", contents), "--negatives", "9", "--strict")
    absent = {name for name, row in written.items() if not boxes(row)}
    assert status == 0 and absent == {f"{film[2]}-pneumothorax", f"{film[2]}-pleural effusion"}


def test_images_that_the_metadata_lack(run, rows, tmp_path):
    root = fixture.write_zip(tmp_path / "cig")
    absent = (10000032, 50414267, mimic.dicom(99), "AP", 1, 1)
    fixture.write_splits(root, {**fixture.SPLITS, "train": [*fixture.FILMS[:2], absent, fixture.FILMS[0]]})
    status, _, written = run(rows, root)
    assert status == 0 and len(written) == 4 and kinds(tmp_path) == {"unknown_image": 1, "duplicate_id": 1}


def test_missing_files_are_named(run, rows, tmp_path):
    root = fixture.write_zip(tmp_path / "cig")
    (root / "silver_dataset/scene_graph.zip").unlink()
    status, told, _ = run(rows, root)
    assert status == 2 and "scene_graph.zip" in told
    (root / "silver_dataset/splits/valid.csv").unlink()
    status, told, _ = run(rows, root)
    assert status == 2 and "valid.csv" in told


def test_there_are_29_regions():
    assert len(REGIONS) == 29
