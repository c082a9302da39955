import json
from types import SimpleNamespace

import numpy as np
import pytest
from fixtures import chest_imagenome, films, mimic_cxr, ms_cxr

from data_prep.cli import main
from data_prep.problems import Problems, RefusedData
from data_prep.selection import Authority, read_mimic_splits
from data_prep.writer.dataset import DatasetWriter
from reward_fns.errors import UsageError


@pytest.fixture
def write(tmp_path):
    def file(*lines):
        path = tmp_path / "mimic-cxr-2.0.0-split.csv"
        path.write_text("\n".join(["dicom_id,study_id,subject_id,split", *lines, ""]))
        return path

    return file


def test_validate_is_val(write):
    path = write("a,1,10000001,train", "b,2,10000002,validate", "c,3,10000003,test", "d,4,10000001,train")
    splits = read_mimic_splits(path, Problems())
    assert splits == {"10000001": "train", "10000002": "val", "10000003": "test"}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["a,1,10000001,train", "b,2,10000001,test"], "subject 10000001 is in two splits, train and test"),
        (["a,1,10000001,"], "split '' of subject 10000001"),
        (["a,1"], "2 fields where the header has 4"),
    ],
)
def test_a_file_that_no_result_can_rest_on_is_refused(write, lines, message):
    with pytest.raises(RefusedData, match=message):
        read_mimic_splits(write(*lines), Problems())


def test_a_missing_column_is_named(write, tmp_path):
    path = write()
    path.write_text("dicom_id,study_id,split\n")
    with pytest.raises(UsageError, match="no column subject_id"):
        read_mimic_splits(path, Problems())


def test_other_opinions_are_counted_and_not_followed(tmp_path):
    problems = Problems()
    authority = Authority({"10000001": "test"}, tmp_path / "split.csv", problems)
    assert authority.split("10000001", "here", own="train") == "test"
    assert authority.split("10000001", "here", own="test") == "test" and authority.split("10000001", "here") == "test"
    assert list(problems.notes.values()) == [1] and not problems.found
    assert authority.split("10000002", "here") is None
    assert [(problem.kind, problem.where) for problem in problems.found] == [("no_split", "here")]


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_a_film_in_two_splits_of_coco_and_llava_is_found(tmp_path, capsys, depth):
    (tmp_path / "films/p1").mkdir(parents=True)
    films.png(tmp_path / "films/p1/a.png", np.arange(1200, dtype=depth).reshape(30, 40))
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 4, 20, 10]}
    image = {"id": 1, "file_name": "p1/a.png", "width": 40, "height": 30}
    coco = {"images": [image], "categories": [{"id": 1, "name": "Mass"}], "annotations": [box]}
    turns = [{"from": "human", "value": "<image>\nReport."}, {"from": "gpt", "value": "A mass."}]
    items = {"coco": coco, "llava": [{"id": "a", "image": "p1/a.png", "conversations": turns}]}
    more = {"coco": ["--split", "train"], "llava": ["--split", "val", "--task", "report"]}
    for name, content in items.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
        given = ["--root", tmp_path / "films", "--annotations", tmp_path / f"{name}.json", "--out", tmp_path / name]
        assert main([name, *map(str, given), *more[name]]) == 0
    capsys.readouterr()
    assert main(["validate", str(tmp_path / "coco"), str(tmp_path / "llava")]) == 1
    told = capsys.readouterr().out
    assert "patient a is in train (coco, " in told and "image in two splits" in told


def test_a_stored_film_that_is_gone_is_found_beside_its_copy(tmp_path, make_sample, capsys):
    for name in ("one", "two"):
        with DatasetWriter(tmp_path / name) as writer:
            writer.add(make_sample(id=name, phrase=name))
    next((tmp_path / "one/images").iterdir()).unlink()
    assert main(["validate", str(tmp_path / "one"), str(tmp_path / "two")]) == 1
    assert "bad image: 2" in capsys.readouterr().out  # of the RL and the SFT row


@pytest.fixture
def patients(tmp_path, rows):
    """Who is in which split, in the rows of all three sets on one folder of MIMIC-CXR-JPG."""
    root = mimic_cxr.write_tables(tmp_path / "jpg")
    annotations = {
        "mimic_cxr": ["--reports", mimic_cxr.write_zip(tmp_path / "reports.zip"), "--section", "fallback"],
        "ms_cxr": ["--annotations", ms_cxr.write_csv(tmp_path)],
        "chest_imagenome": ["--annotations", chest_imagenome.write_zip(tmp_path / "cig")],
    }

    def read():
        found = SimpleNamespace(splits={}, sets={})
        for name, arguments in annotations.items():
            out = tmp_path / name
            assert main([name, "--root", str(root), "--out", str(out), *map(str, arguments)]) == 0
            for split in ("train", "val", "test"):
                for row in rows(out / f"{split}.parquet") if (out / f"{split}.parquet").exists() else []:
                    found.splits.setdefault(row["extra_info"]["patient_id"], set()).add(row["extra_info"]["split"])
                    found.sets.setdefault(row["extra_info"]["patient_id"], set()).add(name)
        return found

    return read


def test_no_patient_is_in_two_splits_over_the_three_sets(patients):
    found = patients()
    assert found.splits == {"p10000032": {"train"}, "p10000764": {"val"}, "p10001217": {"test"}}
    assert all(len(sets) == 3 for sets in found.sets.values())


def test_a_set_prepared_with_another_split_file_is_found(patients, tmp_path, capsys):
    patients()
    files = sorted(path for path in tmp_path.glob("*/*.parquet") if not path.name.startswith("sft"))
    assert len(files) == 9
    main(["validate", *map(str, files)])
    assert "patient in two splits" not in capsys.readouterr().out
    moved = tmp_path / "moved.csv"
    moved.write_text((tmp_path / "jpg/mimic-cxr-2.0.0-split.csv").read_text().replace("validate", "train"))
    arguments = ["--root", tmp_path / "jpg", "--annotations", ms_cxr.write_csv(tmp_path), "--mimic-splits", moved]
    assert main(["ms_cxr", "--out", str(tmp_path / "other"), *map(str, arguments)]) == 0
    assert main(["validate", *map(str, [*files, *(tmp_path / "other").glob("t*.parquet")])]) == 1
    said = capsys.readouterr().out
    assert "patient in two splits: 1\n" in said and "patient p10000764 is in " in said
