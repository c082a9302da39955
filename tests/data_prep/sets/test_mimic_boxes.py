"""Boxes of the sets on MIMIC-CXR's images survive every convention, within that convention's own rounding."""

import json

import pytest
from fixtures import chest_imagenome, mimic_cxr, ms_cxr

from data_prep.cli import main
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
