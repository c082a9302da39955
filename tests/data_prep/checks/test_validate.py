"""Sound data pass `validate`, which draws what it is asked to; wrong use has status 2."""

import json

import pytest
from fixtures.damage import film, verdict
from PIL import Image, ImageChops, ImageDraw, ImageFont

from data_prep.checks import sheet
from data_prep.cli import main
from data_prep.writer.dataset import DatasetWriter
from reward_fns.boxes import Box


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


def test_a_sheet_draws_each_question_once_and_with_its_boxes(sound, tmp_path, capsys):
    path = tmp_path / "sheet.png"
    assert f"{path}: 7 rows" in verdict(capsys, sound, "--sheet", path)[1]
    both = path.read_bytes()
    files = [file for file in sorted(sound.glob("*.parquet")) if not file.name.startswith("sft")]
    assert f"{path}: 7 rows" in verdict(capsys, *files, "--sheet", path)[1] and path.read_bytes() == both
    for file in files:
        file.unlink()
    assert f"{path}: 5 rows" in verdict(capsys, sound, "--sheet", path)[1]


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
