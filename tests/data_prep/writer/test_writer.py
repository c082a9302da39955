import errno
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.cli import main
from data_prep.problems import RefusedData
from data_prep.sample import BadSample
from data_prep.writer import dataset, staging
from data_prep.writer.dataset import DatasetWriter
from data_prep.writer.rows import rl_schema, sft_schema
from reward_fns.boxes import Box
from reward_fns.errors import UsageError

EXTRA_INFO = ["id", "patient_id", "split", "index", "thinking", "task", "box_format", "width", "height"]


def write(out, samples, **options):
    with DatasetWriter(out, **options) as writer:
        for sample in samples:
            writer.add(sample)


def three_splits(make_sample):
    yield make_sample()
    yield make_sample(id="r", task="report", report="Clear.", phrase=None, boxes=())
    yield make_sample(id="v", patient_id="p2", split="val")
    yield make_sample(id="t", patient_id="p3", split="test")


def test_rl_rows_have_the_agreed_content(make_sample, rows, tmp_path):
    write(tmp_path, three_splits(make_sample), thinking=True)
    grounding, report = rows(tmp_path / "train.parquet")
    assert grounding["data_source"] == "toy/grounding" and report["data_source"] == "toy/report"
    assert len(grounding["prompt"]) == 1 and grounding["prompt"][0]["role"] == "user"
    assert grounding["prompt"][0]["content"].startswith("<image>\n")
    assert grounding["prompt"][0]["content"].endswith(" /think")
    assert grounding["reward_model"]["style"] == "rule"
    truth = json.loads(grounding["reward_model"]["ground_truth"])
    assert truth["boxes"] == [[0.1, 0.2, 0.5, 0.75]] and truth["labels"] == ["nodule"] and truth["frame"] == [40, 30]
    assert json.loads(report["reward_model"]["ground_truth"])["report"] == "Clear."
    assert list(grounding["extra_info"]) == EXTRA_INFO
    assert [row["extra_info"]["index"] for row in (grounding, report)] == [0, 1]
    (image,) = grounding["images"]
    assert (image["min_pixels"], image["max_pixels"]) == (1024, 451584)
    assert image == report["images"][0]
    path = Path(image["image"].removeprefix("file://"))
    assert path.is_absolute() and path.read_bytes() == make_sample().image


def test_sft_rows_come_from_the_same_samples_without_thinking(make_sample, rows, tmp_path):
    write(tmp_path, three_splits(make_sample), thinking=True)
    grounding, report = rows(tmp_path / "sft_train.parquet")
    assert list(grounding) == ["messages", "images"]
    assert [message["role"] for message in grounding["messages"]] == ["user", "assistant"]
    assert "/think" not in grounding["messages"][0]["content"]
    assert report["messages"][1]["content"] == "Clear."
    assert len(rows(tmp_path / "sft_val.parquet")) == 1
    assert not (tmp_path / "sft_test.parquet").exists()


@pytest.mark.parametrize("embed", [False, True])
def test_every_file_has_exactly_the_schema(make_sample, tmp_path, embed):
    write(tmp_path, three_splits(make_sample), embed=embed)
    for name in ("train", "val", "test"):
        assert pq.read_schema(tmp_path / f"{name}.parquet").equals(rl_schema(embed))
    for name in ("sft_train", "sft_val"):
        assert pq.read_schema(tmp_path / f"{name}.parquet").equals(sft_schema(embed))
    extra = rl_schema(embed).field("extra_info").type
    assert {field.name for field in extra} == set(EXTRA_INFO)
    assert not any(pa.types.is_nested(field.type) for field in extra)


def test_embedded_images_need_no_files(make_sample, rows, tmp_path):
    write(tmp_path, [make_sample()], embed=True)
    (row,) = rows(tmp_path / "train.parquet")
    assert row["images"][0]["bytes"] == make_sample().image and "image" not in row["images"][0]
    assert not (tmp_path / "images").exists()


def test_an_image_path_is_kept_literally(make_sample, rows, tmp_path):
    image = tmp_path / "with space%20.png"
    image.write_bytes(make_sample().image)
    write(tmp_path / "out", [make_sample(image=image)])
    assert rows(tmp_path / "out/train.parquet")[0]["images"][0]["image"] == f"file://{image}"


@pytest.mark.parametrize(("limit", "value"), [("_ROWS_PER_GROUP", 100), ("_BYTES_PER_GROUP", 100 * 100)])
def test_rows_are_written_in_groups(make_sample, tmp_path, monkeypatch, limit, value):
    monkeypatch.setattr(dataset, limit, value)
    image = make_sample().image[:100]
    write(tmp_path, (make_sample(id=f"s{i}", image=image) for i in range(300)), embed=True)
    file = pq.ParquetFile(tmp_path / "train.parquet")
    assert file.num_row_groups == 3 and file.metadata.num_rows == 300


def test_the_same_id_twice_is_refused(make_sample, tmp_path):
    with pytest.raises(RefusedData, match="'a'"):
        write(tmp_path, [make_sample(), make_sample()])


def test_a_patient_in_two_splits_is_refused(make_sample, tmp_path):
    with pytest.raises(RefusedData, match="'p1' is in two splits, train and, with sample 'b', test"):
        write(tmp_path, [make_sample(), make_sample(id="b", split="test")])
    assert list(tmp_path.iterdir()) == []


def test_shards_hold_the_rows_in_order_and_replace_what_was_there(make_sample, rows, tmp_path):
    samples = [make_sample(id=f"s{i:02d}") for i in range(7)]
    (tmp_path / "training.parquet").write_text("not ours")
    for shard_rows, wanted in ((2, [2, 2, 2, 1]), (3, [3, 3, 1]), (None, [7])):
        write(tmp_path, samples, shard_rows=shard_rows)
        for name in ("train", "sft_train"):
            files = sorted(path for path in tmp_path.glob(f"{name}[-.]*"))
            assert [len(rows(path)) for path in files] == wanted
            assert files[-1].name == (
                f"{name}-{len(wanted) - 1:05d}-of-{len(wanted):05d}.parquet" if shard_rows else f"{name}.parquet"
            )
        read = [row["extra_info"] for path in sorted(tmp_path.glob("train[-.]*")) for row in rows(path)]
        assert [info["index"] for info in read] == list(range(7)) and read[3]["id"] == "s03"
    assert (tmp_path / "training.parquet").read_text() == "not ours"


def test_a_conversation_becomes_a_row_for_sft_only(make_sample, rows, tmp_path):
    turns = (("What is seen?", "A nodule."), ("Where?", "On the left."))
    told = make_sample(task="conversation", phrase=None, boxes=(), turns=turns)
    write(tmp_path, [told, make_sample(id="b", split="test", patient_id="p2")])
    (row,) = rows(tmp_path / "sft_train.parquet")
    assert [message["content"] for message in row["messages"]] == [
        "<image>\nWhat is seen?",
        "A nodule.",
        "Where?",
        "On the left.",
    ]
    assert not (tmp_path / "train.parquet").exists()


def test_a_report_without_image_has_no_image_tag(make_sample, rows, tmp_path):
    write(tmp_path, [make_sample(task="report", report="Clear.", image=None, width=0, height=0)], box_format="qwen25vl")
    (row,), (sft,) = rows(tmp_path / "train.parquet"), rows(tmp_path / "sft_train.parquet")
    assert row["images"] == sft["images"] == []
    assert "<image>" not in row["prompt"][0]["content"] + sft["messages"][0]["content"]


@pytest.mark.parametrize("embed", [False, True])
def test_a_lateral_is_the_second_image_of_rows_that_validate(make_sample, rows, tmp_path, embed):
    film, lateral = make_sample().image, make_sample().image + b"another film, in what a PNG reader skips"
    write(tmp_path, [make_sample(task="report", report="Clear.", boxes=(), lateral=lateral)], embed=embed)
    (row,), (sft,) = rows(tmp_path / "train.parquet"), rows(tmp_path / "sft_train.parquet")
    for turn in (row["prompt"][0], sft["messages"][0]):
        assert turn["content"].startswith("<image>\n<image>\n") and turn["content"].count("<image>") == 2
    read = [
        entry["bytes"] if embed else Path(entry["image"].removeprefix("file://")).read_bytes()
        for entry in row["images"]
    ]
    assert read == [film, lateral] and sft["images"] == row["images"]
    assert main(["validate", str(tmp_path)]) == 0


def test_counts_are_by_kind_and_patients_by_split(make_sample, tmp_path):
    with DatasetWriter(tmp_path) as writer:
        for sample in three_splits(make_sample):
            writer.add(sample)
    assert writer.counts["train", "grounding", "finding"] == writer.counts["train", "report", "findings"] == 1
    assert writer.patients() == {"train": 1, "val": 1, "test": 1}
    assert writer.files["sft_val"] == [tmp_path / "sft_val.parquet"]


@pytest.mark.parametrize("bounds", [(0, 10), (20, 10)])
def test_impossible_bounds_are_wrong_use(tmp_path, bounds):
    with pytest.raises(UsageError, match="min_pixels"):
        DatasetWriter(tmp_path, min_pixels=bounds[0], max_pixels=bounds[1])


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_failed_run_leaves_the_old_files_and_nothing_else(make_sample, rows, tmp_path, failure):
    write(tmp_path, [make_sample(id="old")])
    before = sorted(tmp_path.rglob("*"))

    def broken():
        yield make_sample(id="new", image=b"other")
        raise failure

    with pytest.raises(failure):
        write(tmp_path, broken())
    assert sorted(tmp_path.rglob("*")) == before
    assert rows(tmp_path / "train.parquet")[0]["extra_info"]["id"] == "old"


@pytest.mark.parametrize("place", ["row group", "footer", "image"])
def test_a_full_disk_names_the_path_and_leaves_nothing(make_sample, tmp_path, monkeypatch, place):
    full = OSError(errno.ENOSPC, "No space left on device")

    def no_space(*_args, **_options):
        raise full

    if place == "row group":
        monkeypatch.setattr(dataset.pq.ParquetWriter, "write_table", no_space)
    elif place == "footer":
        monkeypatch.setattr(dataset.pq.ParquetWriter, "close", no_space)
    else:
        monkeypatch.setattr(Path, "write_bytes", no_space)
    with pytest.raises(UsageError, match=f"no space left on the disk of {tmp_path}.*MB"):
        write(tmp_path, [make_sample()])
    assert list(tmp_path.iterdir()) == []


def test_a_second_run_at_the_same_time_is_refused_and_the_first_goes_on(make_sample, rows, tmp_path):
    with DatasetWriter(tmp_path) as first:
        first.add(make_sample())
        with pytest.raises(UsageError, match=f"another run is writing to {tmp_path}"):
            write(tmp_path, [make_sample(id="second", split="test")])
    assert rows(tmp_path / "train.parquet")[0]["extra_info"]["id"] == "a"
    assert not (tmp_path / "test.parquet").exists() and not list(tmp_path.glob(".*"))


def test_a_run_of_another_machine_is_named(make_sample, tmp_path):
    (tmp_path / ".unfinished-other-node-x").mkdir()
    with pytest.raises(UsageError, match=r"a run on another machine is writing to .*remove .*other-node-x"):
        write(tmp_path, [make_sample()])


def names_in(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_second_run_leaves_no_file_of_the_first_and_every_file_of_the_user(make_sample, rows, tmp_path):
    users = {"mine.txt", "old.parquet", "images/mine.png", "images/0123456789abcdef0123.jpg", "README.md"}
    (tmp_path / "images").mkdir()
    for name in users:
        (tmp_path / name).write_text("mine")
    write(tmp_path, three_splits(make_sample), shard_rows=1)
    with DatasetWriter(tmp_path) as writer:
        writer.add(make_sample(id="new", image=make_sample().image + b"other"))
        writer.add_text("problems.jsonl", '{"kind": "bad"}')
    second = {"train.parquet", "sft_train.parquet", "problems.jsonl"}
    image = rows(tmp_path / "train.parquet")[0]["images"][0]["image"]
    assert names_in(tmp_path) == users | second | {f"images/{Path(image).name}"}
    write(tmp_path, [make_sample()], embed=True)
    assert names_in(tmp_path) == users | {"train.parquet", "sft_train.parquet"}
    for name in users:
        (tmp_path / name).unlink()
    write(tmp_path, [make_sample()])
    write(tmp_path, [make_sample()], embed=True)
    assert {path.name for path in tmp_path.iterdir()} == {"train.parquet", "sft_train.parquet"}


def test_a_foreign_file_with_a_name_of_ours_is_refused(make_sample, tmp_path):
    (tmp_path / "val.parquet").write_text("not ours")
    with pytest.raises(UsageError, match=r"val\.parquet was not written by python -m data_prep.*move it away"):
        write(tmp_path, [make_sample()])
    assert names_in(tmp_path) == {"val.parquet"}


@pytest.mark.parametrize("last", range(1, 6))
def test_if_moving_into_place_fails_the_files_of_the_first_run_are_back(make_sample, tmp_path, monkeypatch, last):
    write(tmp_path, three_splits(make_sample))
    before = {name: (tmp_path / name).read_bytes() for name in names_in(tmp_path)}
    moves = iter(range(1, 100))

    def fail_once(source, target, replace=os.replace):
        if next(moves) == last:
            raise OSError(errno.EIO, "broken")
        replace(source, target)

    writer = DatasetWriter(tmp_path).__enter__()
    writer.add(make_sample(id="new", image=b"other"))
    writer.finish()
    monkeypatch.setattr(staging.os, "replace", fail_once)
    with pytest.raises(OSError, match="broken"):
        writer.__exit__(None, None, None)
    assert {name: (tmp_path / name).read_bytes() for name in names_in(tmp_path)} == before


HALF = "\ud800"


@pytest.mark.parametrize(
    "change",
    [
        {"id": HALF},
        {"patient_id": HALF},
        {"phrase": HALF},
        {"question": HALF},
        {"boxes": (Box(0.1, 0.2, 0.3, 0.4, HALF),)},
        {"task": "report", "report": f"Clear{HALF}.", "boxes": ()},
        {"task": "report", "report": "Clear.", "boxes": (), "prior": HALF},
        {"task": "conversation", "boxes": (), "turns": (("Where?", HALF),)},
        {"image": Path(f"/films/{HALF}.png")},
        {"width": 8010},
    ],
)
@pytest.mark.parametrize("box_format", ["radvlm", "qwen25vl"])
def test_what_cannot_be_written_is_refused_alone(make_sample, rows, tmp_path, change, box_format):
    with DatasetWriter(tmp_path, box_format) as writer:
        with pytest.raises(BadSample, match=r"half of a surrogate pair|aspect over 200"):
            writer.add(make_sample(**change))
        writer.add(make_sample(id="sound"))
    assert [row["extra_info"]["id"] for row in rows(tmp_path / "train.parquet")] == ["sound"]


def test_an_image_that_cannot_be_embedded_costs_its_sample_only(make_sample, rows, tmp_path):
    with DatasetWriter(tmp_path, embed=True) as writer:
        with pytest.raises(BadSample, match=r"missing\.png cannot be read: No such file"):
            writer.add(make_sample(image=tmp_path / "missing.png"))
        writer.add(make_sample())
    assert len(rows(tmp_path / "train.parquet")) == 1
