"""Each kind of damage to prepared data has its message and exit status 1."""

import copy
import json
import struct
import zlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fixtures.damage import again, film, row, typed, verdict
from PIL import Image

from data_prep.writer.dataset import DatasetWriter
from data_prep.writer.rows import rl_schema, sft_schema


def png_header(width, height):
    chunks = [b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0), b"IDAT" + zlib.compress(b"")]
    packed = [struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


BOMB = png_header(60_000, 60_000)


def truth(**changes):
    """Change the ground truth of the grounding row g0."""

    def change(rows):
        row = next(row for row in rows if row["extra_info"]["id"] == "g0")
        content = json.loads(row["reward_model"]["ground_truth"]) | changes
        row["reward_model"]["ground_truth"] = json.dumps(content)

    return change


def boxes(*quads):
    return truth(boxes=list(quads), labels=["x"] * len(quads))


def all_of(*changes):
    def change(rows):
        for one in changes:
            one(rows)

    return change


DAMAGE = {
    "box outside": (boxes([0.1, 0.1, 0.5, 1.2]), "box outside: 1", "leaves the image"),
    "box in pixels": (boxes([10, 10, 20, 20]), "box outside: 1", "shares of its width and height"),
    "swapped corners": (boxes([0.5, 0.1, 0.2, 0.4]), "swapped corners: 1", "need"),
    "no area": (boxes([0.5, 0.1, 0.5, 0.4]), "swapped corners: 1", "x1 < x2"),
    "NaN": (boxes([float("nan"), 0, 1, 1]), "bad ground truth: 1", "NaN is not a JSON number"),
    "three numbers": (boxes([0.1, 0.2, 0.3]), "bad box: 1", "is not four finite numbers"),
    "huge number": (boxes([0, 0, 1, 10**400]), "bad box: 1", "is not four finite numbers"),
    "boxes a number": (truth(boxes=5), "bad ground truth: 1", "needs boxes, [["),
    "labels a number": (truth(labels=5), "bad ground truth: 1", "but labels 5"),
    "a text for a corner": (boxes([0, 0, 1, "1"]), "bad box: 1", "is not four finite numbers"),
    "labels": (truth(labels=[]), "bad ground truth: 1", "has 1 boxes, but labels []"),
    "no boxes": (truth(boxes=None), "bad ground truth: 1", "needs boxes, [["),
    "not JSON": (row("reward_model.ground_truth", "[0.1, 0.2"), "bad ground truth: 1", "not JSON"),
    "a list": (row("reward_model.ground_truth", "[]"), "bad ground truth: 1", "must be a JSON object"),
    "no truth": (row("reward_model.ground_truth", None), "bad ground truth: 1", "not JSON"),
    "other id": (truth(id="other"), "rows disagree: 1", "id is 'other' in ground_truth and 'g0' in extra_info"),
    "other task": (row("data_source", "toy/report"), "rows disagree: 1", "must be <set>/grounding"),
    "no split": (row("extra_info.split", None), "missing value: 1", "extra_info has no split"),
    "no extra_info": (row("extra_info", None), "missing value: 1", "no extra_info"),
    "odd split": (row("extra_info.split", "validate"), "unknown value: 1", "'validate', need one of train, val, test"),
    "odd format": (row("extra_info.box_format", "yolo"), "unknown value: 1", "extra_info.box_format is 'yolo'"),
    "wrong size": (row("extra_info.width", 41), "wrong size: 1", "the image is 40 x 30, but extra_info says 41 x 30"),
    "no image tag": (row("prompt.0.content", "Where?"), "wrong image count: 1", "0 times <image> in the text, but 1"),
    "two image tags": (row("prompt.0.content", "<image><image> Where?"), "wrong image count: 1", "2 times <image>"),
    "video": (row("prompt.0.content", "<image> A <video>?"), "wrong image count: 1", "the text has <video>"),
    "no prompt": (row("prompt", []), "empty message: 1", "prompt must be turns with text"),
    "an answer": (row("prompt.0.role", "assistant"), "wrong roles: 1", "they must end with user"),
    "pixel bounds": (row("images.0.min_pixels", 9**9), "bad pixel bounds: 1", "min_pixels <= max_pixels"),
    "missing image": (row("images.0.image", "file:///not/there.png"), "bad image: 1", "does not exist"),
    "relative path": (row("images.0.image", "images/a.png"), "bad image: 1", "make it absolute"),
    "web image": (row("images.0.image", "http://127.0.0.1/a.png"), "bad image: 1", "verl would fetch it"),
    "null image": (row("images", [None]), "bad image: 1", "names no file"),
    "duplicate id": (again(), "duplicate id: 1", "the same as in"),
    "duplicate question": (again(id="new"), "duplicate question: 1", "row 0 (id g0)"),
    "leaked patient": (again(id="new", split="val"), "patient in two splits: 1", "patient p0 is in train (toy, "),
    "leaked image": (again(id="new", split="val", patient_id="q"), "image in two splits: 1", "val here, but train in"),
    "gold too low": (boxes(*[[0.1, 0.1, 0.2 + i / 1000, 0.3] for i in range(101)]), "gold below maximum: 1", "of 1"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_to_a_row(sound, rewrite, capsys, kind):
    change, counted, detail = DAMAGE[kind]
    rewrite(sound / "train.parquet", change)
    status, said = verdict(capsys, sound, "--sheet", sound / "sheet.png")
    assert status == 1 and (sound / "sheet.png").exists()
    assert counted in said and detail in said and "FAILED" in said
    assert str(sound / "train.parquet") in said


def without(schema, column):
    return schema.remove(schema.get_field_index(column))


def both_keys():
    image = [("bytes", pa.binary()), ("image", pa.string()), ("min_pixels", pa.int64()), ("max_pixels", pa.int64())]
    return typed(rl_schema(), "images", pa.list_(pa.struct(image)))


SCHEMAS = {
    "missing column": (without(rl_schema(), "reward_model"), None, "column reward_model"),
    "missing key": (typed(rl_schema(), "extra_info", pa.struct([("id", pa.string())])), None, "has no patient_id"),
    "number as text": (typed(rl_schema(), "data_source", pa.int64()), "data_source", "need string"),
    "text as struct": (typed(rl_schema(), "images", pa.list_(pa.string())), "images", "need a list of {image}"),
    "both bytes and path": (both_keys(), None, "verl reads such paths as empty images"),
}


@pytest.mark.parametrize("kind", SCHEMAS)
def test_damage_to_the_schema(sound, rewrite, capsys, kind):
    schema, emptied, detail = SCHEMAS[kind]

    def change(rows):
        return [{key: None if key == emptied else value for key, value in row.items()} for row in rows]

    rewrite(sound / "train.parquet", change, schema)
    status, said = verdict(capsys, sound)
    assert status == 1
    assert detail in said and "the rows of this file were not checked" in said


def test_a_wrong_column_in_sft_rows(sound, rewrite, capsys):
    rewrite(sound / "sft_train.parquet", lambda rows: None, without(sft_schema(), "images"))
    status, said = verdict(capsys, sound)
    assert status == 1 and "column images" in said


def test_an_sft_row_without_an_answer(sound, rewrite, capsys):
    rewrite(sound / "sft_train.parquet", row("messages.1.content", " "))
    status, said = verdict(capsys, sound)
    assert status == 1 and "empty message: 1" in said


def test_an_sft_row_whose_images_are_null(sound, rewrite, capsys):
    rewrite(sound / "sft_train.parquet", all_of(row("images", None), row("messages.0.content", "Where?")))
    status, said = verdict(capsys, sound)
    assert status == 1 and "missing value: 1" in said and "images is null" in said


def test_rows_without_images_pass(sound, rewrite, capsys):
    for place in (0, 1):
        changes = {"images": [], "prompt.0.content": "Hm?", "extra_info.width": 0}
        rewrite(sound / "val.parquet", all_of(*(row(path, value, place) for path, value in changes.items())))
    assert verdict(capsys, sound)[0] == 0


def test_sft_images_of_held_out_patients(sound, capsys):
    (sound / "sft_val.parquet").rename(sound / "sft_train_more.parquet")
    status, said = verdict(capsys, sound)
    assert status == 1 and "image in two splits" in said


@pytest.mark.parametrize("keep", [0, 4, 200, -50])
def test_a_truncated_parquet(sound, capsys, keep):
    path = sound / "val.parquet"
    path.write_bytes(path.read_bytes()[:keep])
    status, said = verdict(capsys, sound)
    assert status == 1 and "unreadable file: 1" in said and str(path) in said


def test_damaged_pages_in_a_parquet(sound, capsys):
    path = sound / "val.parquet"
    content = bytearray(path.read_bytes())
    content[4:400] = bytes(396)
    path.write_bytes(content)
    status, said = verdict(capsys, sound)
    assert status == 1 and "unreadable file" in said and str(path) in said


def test_texts_in_another_encoding(sound, capsys):
    table = pq.read_table(sound / "val.parquet")
    latin = pa.array([b"\xe9tude"] * len(table), pa.binary()).cast(pa.string(), safe=False)
    pq.write_table(table.set_column(0, "data_source", latin), sound / "val.parquet")
    status, said = verdict(capsys, sound)
    assert status == 1 and "unreadable file" in said and "utf-8" in said


def test_a_file_without_rows(sound, rewrite, capsys):
    rewrite(sound / "test.parquet", lambda rows: rows.clear())
    status, said = verdict(capsys, sound)
    assert status == 1 and "empty file: 1" in said


@pytest.mark.parametrize(
    ("content", "images", "message"),
    [
        (film(50, form="PNG")[:-30], "decode", "breaks off or is damaged"),
        (film(50, (400, 300), form="JPEG")[:-700], "decode", "breaks off or is damaged"),
        (b"not an image", "header", "is not an image"),
        (b"", "header", "is not an image"),
        (BOMB, "header", "exceeds limit"),
    ],
    ids=["truncated PNG", "truncated JPEG", "text", "nothing", "bomb"],
)
def test_damaged_image_files(sound, rows, capsys, content, images, message):
    reference = rows(sound / "train.parquet")[0]["images"][0]["image"]
    with open(reference.removeprefix("file://"), "wb") as file:
        file.write(content)
    status, said = verdict(capsys, sound, "--images", images)
    assert status == 1 and message in said and reference.removeprefix("file://") in said
    assert verdict(capsys, sound, "--images", "skip")[0] == 0


def test_sixteen_bits_would_be_clipped(sound, rows, capsys):
    reference = rows(sound / "train.parquet")[0]["images"][0]["image"]
    Image.new("I;16", (40, 30), 4000).save(reference.removeprefix("file://"))
    status, said = verdict(capsys, sound)
    assert status == 1 and "more than 8 bits a pixel (mode I;16)" in said


def test_a_patient_in_two_splits_of_two_sets(tmp_path, make_sample, capsys):
    for name, split in (("one", "train"), ("two", "test")):
        with DatasetWriter(tmp_path / name) as writer:
            writer.add(make_sample(dataset=name, split=split, image=film(len(name) + len(split))))
    files = [tmp_path / "one" / "train.parquet", tmp_path / "two" / "test.parquet"]
    assert verdict(capsys, files[0])[0] == 0
    status, said = verdict(capsys, *files)
    assert status == 1 and "patient in two splits: 1" in said
    assert f"patient p1 is in train (one, {files[0]}) and in test (two, {files[1]})" in said
    assert "if these are two people, give the ids of one set a prefix" in said


def test_embedded_and_referenced_images_do_not_mix(tmp_path, make_sample, capsys):
    for name, embed in (("one", True), ("two", False)):
        with DatasetWriter(tmp_path / name, embed=embed) as writer:
            writer.add(make_sample(id=name, patient_id=name, image=film(len(name), (40 + embed, 30)), width=40 + embed))
    status, said = verdict(capsys, tmp_path / "one" / "train.parquet", tmp_path / "two" / "train.parquet")
    assert status == 1 and "files disagree: 1" in said and "verl takes paths for bytes" in said


def test_types_must_agree_between_files(sound, rewrite, capsys):
    more = sound / "train2.parquet"
    more.write_bytes((sound / "train.parquet").read_bytes())
    rewrite(more, again(id="new"), typed(rl_schema(), "data_source", pa.large_string()))
    status, said = verdict(capsys, sound)
    assert status == 1 and "data_source is large_string, but string in" in said


def test_many_defects_are_counted_and_the_first_listed(sound, rewrite, tmp_path, capsys):
    rewrite(sound / "train.parquet", lambda rows: rows + [copy.deepcopy(rows[0]) for _ in range(1200)])
    status, said = verdict(capsys, sound, "--json", tmp_path / "report.json")
    assert status == 1 and "duplicate id: 1200" in said and "... and 1190 more" in said
    told = json.loads((tmp_path / "report.json").read_text())
    assert told["defects"]["duplicate id"] == 1200
    assert sum(problem["kind"] == "duplicate id" for problem in told["listed"]) == 1000
