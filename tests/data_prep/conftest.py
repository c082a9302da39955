"""Small inputs that several tests of data preparation share."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_openai
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_prep.cli import main
from data_prep.sample import Sample
from reward_fns.boxes import Box

judge_server = fake_openai.judge_server


def png(width: int = 40, height: int = 30) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((height, width), 99, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def make_sample() -> Callable[..., Sample]:
    def make(**changes: Any) -> Sample:
        values: dict[str, Any] = {
            "id": "a",
            "patient_id": "p1",
            "split": "train",
            "dataset": "toy",
            "task": "grounding",
            "image": png(),
            "width": 40,
            "height": 30,
            "phrase": "nodule",
            "boxes": (Box(0.1, 0.2, 0.5, 0.75, "nodule"),),
        }
        return Sample(**{**values, **changes})

    return make


@pytest.fixture
def convert(tmp_path, capsys) -> Callable[..., tuple[int, str, Path]]:
    """Runs a loader on a folder; its exit status, what it told and the folder that it wrote."""

    def run(name: str, root: Path, *options: Any) -> tuple[int, str, Path]:
        status = main([name, "--root", str(root), "--out", str(tmp_path / "out"), *map(str, options)])
        return status, capsys.readouterr().err, tmp_path / "out"

    return run


@pytest.fixture
def rows() -> Callable[[Path], list[dict[str, Any]]]:
    def read(path: Path) -> list[dict[str, Any]]:
        return pq.read_table(path).to_pylist()

    return read
