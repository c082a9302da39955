"""Boxes of the sets on MIMIC-CXR's images survive every convention, within that convention's own rounding."""

import json

import pytest
from fixtures import chest_imagenome, mimic_cxr, ms_cxr

from data_prep.cli import main
from data_prep.problems import Problems
from data_prep.readers.pixel_boxes import box
from reward_fns.conventions import get_convention

WRITERS = {"ms_cxr": ms_cxr.write_csv, "chest_imagenome": chest_imagenome.write_zip}
HALF_UNITS = {"radvlm": 0.005, "qwen3vl": 0.0005, "pixel": 0.5, "qwen25vl": 0.5}  # of shares, or of pixels


@pytest.mark.parametrize("box_format", HALF_UNITS)
@pytest.mark.parametrize("name", WRITERS)
def test_round_trip(rows, tmp_path, name, box_format):
    root = mimic_cxr.write_tables(tmp_path / "jpg")
    annotations = WRITERS[name](tmp_path)
    arguments = ["--root", root, "--annotations", annotations, "--out", tmp_path / "out", "--box-format", box_format]
    assert main([name, *map(str, arguments)]) == 0
    convention = get_convention(box_format)
    pairs = zip(rows(tmp_path / "out/train.parquet"), rows(tmp_path / "out/sft_train.parquet"), strict=True)
    for rl, sft in pairs:
        truth = json.loads(rl["reward_model"]["ground_truth"])
        answer = convention.parse(sft["messages"][1]["content"], tuple(truth["frame"]))
        assert len(answer.boxes) == len(truth["boxes"]) >= 1 and not answer.invalid
        width, height = truth["frame"] if box_format in ("pixel", "qwen25vl") else (1, 1)
        half = HALF_UNITS[box_format] * 1.001
        for parsed, exact in zip(answer.boxes, truth["boxes"], strict=True):
            errors = [abs(one - other) for one, other in zip(parsed.quad, exact, strict=True)]
            assert max(errors[0], errors[2]) <= half / width and max(errors[1], errors[3]) <= half / height


def test_corners_in_pixels_become_shares():
    problems = Problems()
    made = box(("10", 5, 20.0, 15), (40, 20), "nodule", "here", problems)
    assert made is not None and made.quad == (0.25, 0.25, 0.5, 0.75) and made.label == "nodule"
    made = box((-0.5, 0, 40.5, 20), (40, 20), "", "here", problems)
    assert made is not None and made.quad == (0.0, 0.0, 1.0, 1.0)
    assert problems.notes == {"boxes clipped to the image": 1} and not problems.found


@pytest.mark.parametrize(
    ("corners", "kind"),
    [
        ((1, 2, 3, None), "bad_box"),
        ((1, 2, 3, True), "bad_box"),
        ((1, 2, 3, [4]), "bad_box"),
        ((1, 2, 3, ""), "bad_box"),
        ((1, 2, 3, "None"), "bad_box"),
        ((1, 2, 10**400, 4), "bad_box"),
        ((1, 2, float("inf"), 4), "bad_box"),
        ((3, 2, 1, 4), "bad_box"),
        ((1, 4, 3, 4), "bad_box"),
        ((1, 2, 42, 4), "box_outside"),
        ((40, 2, 41, 4), "box_outside"),
    ],
)
def test_corners_that_make_no_box(corners, kind):
    problems = Problems()
    assert box(corners, (40, 20), "", "here", problems) is None
    assert [(problem.kind, problem.where) for problem in problems.found] == [(kind, "here")]
