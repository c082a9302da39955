"""Prepared data through verl's own data set classes; needs verl, but runs none of its trainers."""

import copy
import io
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

pytest.importorskip("verl")

from data_prep.checks.lengths import PromptLengths
from data_prep.options import HELP
from data_prep.sample import Sample
from data_prep.writer.dataset import DatasetWriter
from recipe.cxr_grpo import read_check
from recipe.cxr_grpo.demo import architecture
from reward_fns.boxes import Box


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    out = tmp_path_factory.mktemp("model") / "tiny"
    architecture.write_random(out, hidden_size=64, layers=1)
    return str(out)


@pytest.fixture
def data(tmp_path):
    """Films of three sizes, one of them beyond the bounds of the rows."""
    for name, embed in (("paths", False), ("bytes", True)):
        with DatasetWriter(tmp_path / name, max_pixels=64 * 1024, embed=embed) as writer:
            for i, (width, height) in enumerate([(40, 30), (300, 200), (97, 640)]):
                film = io.BytesIO()
                Image.new("L", (width, height), i).save(film, "PNG")
                box = Box(0.1, 0.2, 0.5, 0.75, "nodule")
                writer.add(
                    Sample(f"s{i}", f"p{i}", "train", "toy", "grounding", film.getvalue(), width, height,
                           phrase="nodule " * (i + 1), boxes=(box,))
                )  # fmt: skip
    return tmp_path


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Hugging Face's cache of data sets goes with the test."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def verdict(capsys, model, *arguments):
    status = read_check.main([*map(str, arguments), "--model", model])
    said = capsys.readouterr()
    return status, said.out + said.err


def test_verl_reads_paths_and_bytes(data, model, capsys):
    status, said = verdict(capsys, model, "--data", data / "paths", data / "bytes")
    assert status == 0, said
    assert said.count("RL, 3 rows read") == said.count("SFT, 3 rows read") == 2
    assert "passed: verl reads every row" in said


def test_counted_lengths_are_those_of_verl(data, model):
    tokenizer, processor = read_check.load_model(model)
    path = data / "paths" / "train.parquet"
    found = read_check.read_lengths(path, tokenizer, processor, sft=False, limit=1024, first=None)
    assert found.defects == []
    lengths = PromptLengths(model)
    for row, tokens in zip(pq.read_table(path).to_pylist(), found.tokens, strict=True):
        size = row["extra_info"]["width"], row["extra_info"]["height"]
        assert lengths.count(row["prompt"], [(*size, row["images"][0])]) == tokens
    assert len(set(found.tokens)) == 3


def test_what_verl_would_skip_in_silence_is_told(data, model, capsys):
    next((data / "paths" / "images").iterdir()).unlink()
    path = data / "paths" / "train.parquet"
    status, said = verdict(capsys, model, "--data", data / "paths", "--max-prompt-length", "30")
    assert status == 1
    assert said.count("FileNotFoundError") == 2 and "over the limit of 30" in said and "FAILED" in said
    table = pq.read_table(path)
    rows = copy.deepcopy(table.to_pylist())
    rows[1]["prompt"][0]["content"] = "No place for the film."
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    status, said = verdict(capsys, model, "--data", path)
    assert status == 1 and "row 1: AssertionError" in said


def test_a_null_key_bytes_breaks_verl(data, model, capsys):
    path = data / "paths" / "train.parquet"
    rows = pq.read_table(path).to_pylist()
    for row in rows:
        row["images"][0]["bytes"] = None
    pq.write_table(pa.Table.from_pylist(rows), path)
    status, said = verdict(capsys, model, "--data", path, "--first", "1")
    assert status == 1 and re.search(r"row 0: \w+Error", said)


def test_the_command_says_the_same_of_lengths(data, model, capsys):
    from data_prep.cli import main

    assert main(["validate", str(data / "paths"), "--model", model]) == 0
    assert main(["validate", str(data / "paths"), "--model", model, "--max-prompt-length", "30"]) == 1
    assert main(["validate", str(data / "paths"), "--model", str(data)]) == 2
    said = capsys.readouterr()
    assert "prompt too long: " in said.out and f"--model {data}: no processor can be loaded" in said.err


@pytest.mark.parametrize(
    ("arguments", "message", "status"),
    [
        (["--data", "{}/nowhere"], "no such file or folder", 2),
        (["--data", "{}/paths", "--model", "{}/paths"], "--model", 2),
        (["--data", "{}/broken.parquet"], "cannot be read", 1),
    ],
)
def test_wrong_use(data, model, capsys, arguments, message, status):
    (data / "broken.parquet").write_bytes(b"PAR1")
    given = [argument.format(data) for argument in arguments]
    assert read_check.main([*(["--model", model] if "--model" not in given else []), *given]) == status
    assert message in capsys.readouterr().err


def test_the_two_halves_name_each_other():
    assert "recipe.cxr_grpo.read_check" in HELP["commands"]["validate"]["description"]
    assert "data_prep validate" in read_check.__doc__
