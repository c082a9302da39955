import hashlib
import json

import pytest
from PIL import Image

from data_prep import registry
from data_prep.cli import main
from data_prep.problems import Problems


@pytest.fixture
def toy(make_sample, tmp_path, monkeypatch):
    """A data set of two patients and one defect; its labels come from one file and a folder of two."""
    (tmp_path / "labels.csv").write_text("a|b")
    (tmp_path / "texts").mkdir()
    for name in ("1.xml", "2.xml", "readme.txt"):
        (tmp_path / "texts" / name).write_text(name)

    def load(options, problems):
        problems.source(tmp_path / "labels.csv")
        problems.source(tmp_path / "texts", "*.xml")
        problems.count("studies", 2)
        problems.add("missing image", "x.png", "not there")
        problems.notes["without text"] += 1
        yield make_sample()
        yield make_sample(id="b", patient_id="p2", split="val", kind="anatomy")

    monkeypatch.setattr(registry, "_registered", dict(registry.data_sets()))
    arguments = {"summary": "a toy", "example": "data_prep toy", "arguments": lambda parser: None}
    registry.data_set("toy", **arguments, expected={"studies": 3, "images": 9})(load)
    return lambda *options: main(["toy", "--out", str(tmp_path / "out"), *options])


def test_a_card_tells_what_a_run_did(toy, tmp_path, capsys):
    assert toy("--card", "--shard-rows", "5") == 0
    assert "not as published: studies: 2 here, 3 as published (-1)" in capsys.readouterr().err
    card = (tmp_path / "out/README.md").read_text()
    listing = "".join(f"{hashlib.sha256(n.encode()).hexdigest()}  {n}\n" for n in ("1.xml", "2.xml"))
    shard = "train-00000-of-00001.parquet"
    for told in (
        f"python -m data_prep toy --out {tmp_path / 'out'} --card --shard-rows 5",
        "| train | grounding | finding | 1 |",
        "| val | grounding | anatomy | 1 |",
        "| val | 1 |",
        f"| {shard} | 1 | {hashlib.sha256((tmp_path / 'out' / shard).read_bytes()).hexdigest()} |",
        f"| {tmp_path / 'labels.csv'} | 3 | {hashlib.sha256(b'a|b').hexdigest()} |",
        f"| {tmp_path / 'texts'}/*.xml (2 files) | 10 | {hashlib.sha256(listing.encode()).hexdigest()} |",
        "studies: 2 here, 3 as published (-1)",
        "| missing image | 1 |",
        "| without text | 1 |",
        "| shard_rows | 5 |",
        "| pyarrow |",
    ):
        assert told in card


def test_a_limited_run_is_not_compared_with_the_published_counts(toy, tmp_path, capsys):
    assert toy("--card", "--limit", "1") == 0
    assert "published" not in capsys.readouterr().err
    assert "Not compared." in (tmp_path / "out/README.md").read_text()


def test_a_later_run_leaves_no_stale_card_and_no_card_replaces_a_users_text(toy, tmp_path, capsys):
    assert toy("--card") == 0 and toy() == 0
    assert not (tmp_path / "out/README.md").exists()
    (tmp_path / "out/README.md").write_text("mine")
    assert toy() == 0
    before = sorted(tmp_path.rglob("*"))
    assert toy("--card") == 2
    assert "is not a data card" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "out/README.md").read_text() == "mine"


def test_counts_add_up_and_only_what_was_counted_is_compared():
    here = Problems()
    here.count("studies")
    here.count("studies", 2)
    assert here.counts == {"studies": 3}
    assert here.unexpected({"studies": 3, "images": 4}) == []
    here.count("images", 0)
    assert here.unexpected({"images": 4}) == ["images: 0 here, 4 as published (-4)"]


def test_the_coco_loader_tells_its_input(tmp_path):
    Image.new("L", (10, 10)).save(tmp_path / "a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 10, "height": 10}],
        "categories": [{"id": 1, "name": "nodule"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5]}],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    arguments = ["--root", str(tmp_path), "--annotations", str(tmp_path / "boxes.json"), "--out", str(tmp_path / "out")]
    assert main(["coco", *arguments, "--card"]) == 0
    digest = hashlib.sha256((tmp_path / "boxes.json").read_bytes()).hexdigest()
    assert digest in (tmp_path / "out/README.md").read_text()
