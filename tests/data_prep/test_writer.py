import errno
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep import writer as writer_module
from data_prep.problems import RefusedData
from data_prep.writer import DatasetWriter, rl_schema, sft_schema
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


def test_rows_are_written_in_groups(make_sample, tmp_path):
    write(tmp_path, (make_sample(id=f"s{i}") for i in range(300)))
    file = pq.ParquetFile(tmp_path / "train.parquet")
    assert file.num_row_groups == 3 and file.metadata.num_rows == 300


def test_the_same_id_twice_is_refused(make_sample, tmp_path):
    with pytest.raises(RefusedData, match="'a'"):
        write(tmp_path, [make_sample(), make_sample()])


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
        monkeypatch.setattr(writer_module.pq.ParquetWriter, "write_table", no_space)
    elif place == "footer":
        monkeypatch.setattr(writer_module.pq.ParquetWriter, "close", no_space)
    else:
        monkeypatch.setattr(Path, "write_bytes", no_space)
    with pytest.raises(UsageError, match=f"no space left on the disk of {tmp_path}.*MB"):
        write(tmp_path, [make_sample()])
    assert list(tmp_path.iterdir()) == []
