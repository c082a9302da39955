"""Each kind of damage to prepared data has its message and exit status 1; sound data pass; wrong use has status 2."""

import copy
import io
import json
import struct
import zlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageChops, ImageDraw, ImageFont

from data_prep.checks import sheet
from data_prep.checks.lengths import PromptLengths
from data_prep.cli import main
from data_prep.writer.dataset import DatasetWriter
from data_prep.writer.rows import rl_schema, sft_schema
from reward_fns.boxes import Box


def film(shade, side=(40, 30), form="PNG"):
    buffer = io.BytesIO()
    Image.new("L", side, shade).save(buffer, form)
    return buffer.getvalue()


def png_header(width, height):
    chunks = [b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0), b"IDAT" + zlib.compress(b"")]
    packed = [struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


BOMB = png_header(60_000, 60_000)


@pytest.fixture
def sound(tmp_path, make_sample):
    """A folder with three patients, two tasks and all files that a writer makes."""
    with DatasetWriter(tmp_path / "data") as writer:
        for i, split in enumerate(("train", "val", "test")):
            own = {"patient_id": f"p{i}", "split": split, "image": film(90 + i)}
            writer.add(make_sample(id=f"g{i}", **own))
            writer.add(make_sample(id=f"r{i}", **own, task="report", report=f"Film {i} is clear.", boxes=()))
            if split == "train":
                writer.add(make_sample(id="absent", **own, phrase="a mass", boxes=()))
    return tmp_path / "data"


@pytest.fixture
def rewrite():
    """Change the rows of a parquet file; `schema` replaces its own."""

    def write(path, change, schema=None):
        table = pq.read_table(path)
        rows = table.to_pylist()
        changed = change(rows) or rows
        pq.write_table(pa.Table.from_pylist(changed, schema=schema or table.schema), path)

    return write


def verdict(capsys, *arguments):
    status = main(["validate", *map(str, arguments)])
    said = capsys.readouterr()
    return status, said.out + said.err


def test_sound_data_pass(sound, tmp_path, capsys):
    report = tmp_path / "out" / "report.json"
    status, said = verdict(capsys, sound, "--json", report, "--sheet", tmp_path / "sheet.png")
    assert status == 0, said
    assert "passed: 12 rows in 5 files, 0 defects" in said
    told = json.loads(report.read_text())
    assert told["passed"] and told["defects"] == {} and told["listed"] == []
    train = next(file for file in told["files"] if file["path"].endswith("/train.parquet"))
    assert (train["rows"], train["tasks"], train["boxes"], train["without_boxes"]) == (
        3, {"grounding": 2, "report": 1}, 1, 1,
    )  # fmt: skip
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG" and sheet.width > 1000


@pytest.mark.parametrize("box_format", ["radvlm", "qwen3vl", "qwen25vl", "pixel"])
@pytest.mark.parametrize("embed", [True, False])
def test_every_convention_passes(tmp_path, make_sample, capsys, box_format, embed):
    boxes = (Box(0.1, 0.2, 0.5, 0.75, "nodule"), Box(0.513, 0.004, 0.9, 0.0149, "line"))
    with DatasetWriter(tmp_path, box_format, thinking=True, embed=embed) as writer:
        writer.add(make_sample(boxes=boxes, image=film(9, (400, 300)), width=400, height=300))
    status, said = verdict(capsys, tmp_path)
    assert status == 0, said


def truth(**changes):
    """Change the ground truth of the grounding row g0."""

    def change(rows):
        row = next(row for row in rows if row["extra_info"]["id"] == "g0")
        content = json.loads(row["reward_model"]["ground_truth"]) | changes
        row["reward_model"]["ground_truth"] = json.dumps(content)

    return change


def boxes(*quads):
    return truth(boxes=list(quads), labels=["x"] * len(quads))


def row(path, value, index=0):
    """Set one value in a row, its place given as "extra_info.width"."""

    def change(rows):
        place, (*parents, last) = rows[index], path.split(".")
        for parent in parents:
            place = place[int(parent) if parent.isdigit() else parent]
        place[last] = value

    return change


def all_of(*changes):
    def change(rows):
        for one in changes:
            one(rows)

    return change


def again(**info):
    """A copy of the first row at the end, with another `extra_info`."""

    def change(rows):
        rows.append(copy.deepcopy(rows[0]))
        rows[-1]["extra_info"] |= info
        content = json.loads(rows[-1]["reward_model"]["ground_truth"]) | info
        rows[-1]["reward_model"]["ground_truth"] = json.dumps(content)

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


def typed(schema, column, kind):
    return schema.set(schema.get_field_index(column), pa.field(column, kind))


def both_keys():
    image = [("bytes", pa.binary()), ("image", pa.string()), ("min_pixels", pa.int64()), ("max_pixels", pa.int64())]
    return typed(rl_schema(), "images", pa.list_(pa.struct(image)))


SCHEMAS = {
    "missing column": (without(rl_schema(), "reward_model"), None, "there is no column reward_model"),
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
    assert status == 1 and "there is no column images" in said


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


def test_the_rewards_of_a_preset_judge_the_gold_answers(sound, capsys):
    status, said = verdict(capsys, sound / "train.parquet", "--preset", "paper_grounding")
    assert status == 1
    assert "gold below maximum: 1" in said and "(id absent)" in said  # its rule for empty answers is 0
    assert "note: gold answers of report rows were not scored" in said


def test_sound_reports_pass_rewards_whose_range_a_gold_answer_does_not_reach(
    sound, tmp_path, capsys, text_models_in_cache
):
    """radcliq gives equal reports at most 1.4407, or 0.8181 without a relation in them, of a range up to 1.45."""
    (tmp_path / "spec.yaml").write_text(
        "report:\n"
        "  - {name: radcliq, options: {min_chars: 6}}\n  - {name: radcliq_bounded}\n  - {name: radgraph_combined}\n"
    )
    for arguments in (["--preset", "paper_report"], ["--spec", tmp_path / "spec.yaml"]):
        status, said = verdict(capsys, sound / "train.parquet", *arguments)
        assert status == 0, said


REWARD = """
from reward_fns.registry import reward

@reward("words_right", task="report", range=(0.0, 100.0))
def words_right(prediction: str, reference: str) -> float:
    'Number of words of the prediction that the reference has too, so that 100 is out of reach.'
    return float(sum(word in reference.split() for word in prediction.split() if word != "lost"))
"""


def test_a_report_must_earn_what_it_earns_without_a_trace_and_more_than_no_answer(tmp_path, make_sample, capsys):
    reports = {"a": "Clear.", "b": "lost", "c": "The end of </think> what is seen."}
    (tmp_path / "mine.py").write_text(REWARD)
    (tmp_path / "spec.yaml").write_text("report:\n  - {name: words_right, path: mine.py}\n")
    with DatasetWriter(tmp_path / "data", thinking=True) as writer:
        for name, report in reports.items():
            writer.add(make_sample(id=name, task="report", report=report, boxes=(), image=film(ord(name))))
    status, said = verdict(capsys, tmp_path / "data", "--spec", tmp_path / "spec.yaml")
    assert status == 1 and "gold below maximum: 2" in said
    assert "(id b): the gold answer 'lost' earns too little: words_right is 0, no more than for no answer" in said
    assert "(id c)" in said and "words_right is 3, but 7 without a reasoning trace" in said


@pytest.mark.parametrize("report", ["None", "nan", "...", "N/A.", "null"])
def test_a_report_that_stands_for_a_missing_one(tmp_path, make_sample, capsys, report):
    with DatasetWriter(tmp_path) as writer:
        writer.add(make_sample(task="report", report=report, boxes=()))
        writer.add(make_sample(id="b", task="report", report="No nodule.", kind="impression", boxes=()))
    status, said = verdict(capsys, tmp_path)
    assert status == 1 and "placeholder report: 1" in said and repr(report) in said


def test_the_ceiling_of_each_box_format_is_printed(tmp_path, make_sample, capsys):
    """Two boxes on a film of 400 x 300: one that every format can write, one that two decimals cannot."""
    boxes = (Box(0.1, 0.2, 0.5, 0.75), Box(0.504, 0.1, 0.514, 0.9))
    with DatasetWriter(tmp_path / "data") as writer:
        writer.add(make_sample(boxes=boxes, image=film(9, (400, 300)), width=400, height=300))
        writer.add(make_sample(id="none", phrase="mass", boxes=(), image=film(9, (400, 300)), width=400, height=300))
    status, said = verdict(capsys, tmp_path / "data", "--json", tmp_path / "report.json")
    assert status == 0, said
    formats = json.loads((tmp_path / "report.json").read_text())["box_formats"]
    # [0.5, 0.1, 0.51, 0.9] meets the second box in 0.006 of 0.014 of the width.
    assert formats["radvlm"] == pytest.approx({"score": (1 + 6 / 14) / 2, "under_0.5": 0.5})
    assert formats["qwen3vl"] == pytest.approx({"score": 1, "under_0.5": 0})
    assert set(formats) == {"radvlm", "qwen3vl", "qwen25vl", "pixel"} and formats["pixel"]["under_0.5"] == 0
    assert "share of 2 boxes under IoU 0.5" in said and "radvlm     0.714   50.0%" in said


def test_gold_answers_longer_than_a_response_can_be(sound, tmp_path, capsys):
    pytest.importorskip("transformers")
    from recipe.cxr_grpo import tiny_model

    model = tmp_path / "model"
    assert tiny_model.main(["--out", str(model), "--hidden-size", "64", "--layers", "1"]) == 0
    tokens = PromptLengths(str(model)).count_text("Film 0 is clear.")
    gold = ["--model", model, "--max-response"]
    status, said = verdict(capsys, sound / "train.parquet", *gold, 500)
    assert status == 0 and "0 over --max-response" in said
    status, said = verdict(capsys, sound / "train.parquet", *gold, tokens - 1)
    assert status == 1 and f"{tokens} tokens, over --max-response {tokens - 1}: no response can be that long" in said
    status, said = verdict(capsys, sound / "train.parquet", "--max-response", 9)
    assert status == 2 and "give --model too" in said


@pytest.mark.parametrize(("task", "count", "drawn"), [("report", 24, 3), ("grounding", 24, 4), ("grounding", 2, 2)])
def test_a_sheet_of_what_is_asked(sound, tmp_path, capsys, task, count, drawn):
    drawings = []
    for seed in (0, 1, 1):
        path = tmp_path / "sheet.png"
        status, said = verdict(capsys, sound, "--sheet", path, "--task", task, "--count", count, "--seed", seed)
        assert status == 0 and f"{path}: {drawn} rows" in said
        drawings.append(path.read_bytes())
    first, second, again = drawings
    assert second == again and (first != second) == (count == 2)


def inked(label, box):
    """The text pixels of a label on a card, as a picture of them, wherever they are."""
    card = Image.new("RGB", (sheet._SIDE, sheet._SIDE), "white")
    sheet._draw_boxes(ImageDraw.Draw(card), [(box, label, True)], (0, 0, *card.size), ImageFont.load_default(13))
    return ImageChops.invert(card.convert("L").point(lambda shade: 255 if shade > 60 else 0)).getbbox()


@pytest.mark.parametrize("box", [(0.9, 0.0, 1.0, 0.1), (0.0, 0.5, 0.2, 0.6), (0.95, 0.95, 1.0, 1.0)])
def test_a_label_is_drawn_to_its_end(box):
    label = "pulmonary artery enlargement"
    wide = ImageDraw.Draw(Image.new("L", (9, 9))).textlength(label, ImageFont.load_default(13))
    left, top, right, bottom = inked(label, box)
    assert left >= 0 and right <= sheet._SIDE and right - left >= wide - 2 and bottom - top < 20
    left, top, right, bottom = inked(f"{label} with a name as long as no card is wide, {label}", box)
    assert right <= sheet._SIDE and bottom - top > 30


def test_many_defects_are_counted_and_the_first_listed(sound, rewrite, tmp_path, capsys):
    rewrite(sound / "train.parquet", lambda rows: rows + [copy.deepcopy(rows[0]) for _ in range(1200)])
    status, said = verdict(capsys, sound, "--json", tmp_path / "report.json")
    assert status == 1 and "duplicate id: 1200" in said and "... and 1190 more" in said
    told = json.loads((tmp_path / "report.json").read_text())
    assert told["defects"]["duplicate id"] == 1200
    assert sum(problem["kind"] == "duplicate id" for problem in told["listed"]) == 1000


@pytest.mark.parametrize("command", ["validate", "filter", "traces"])
def test_help_has_an_example(capsys, command):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"example: python -m data_prep {command} data/mine" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{}/empty"], "no parquet file in this folder"),
        (["{}/nowhere"], "no such file or folder"),
        (["{}/data", "--preset", "paper_groundin"], "did you mean 'paper_grounding'"),
        (["{}/data", "--spec", "{}/no.yaml"], "no reward spec"),
    ],
)
def test_wrong_use_has_status_2(sound, tmp_path, capsys, arguments, message):
    (tmp_path / "empty").mkdir()
    status, said = verdict(capsys, *(argument.format(tmp_path) for argument in arguments))
    assert status == 2 and message in said
