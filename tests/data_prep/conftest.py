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
def rows() -> Callable[[Path], list[dict[str, Any]]]:
    def read(path: Path) -> list[dict[str, Any]]:
        return pq.read_table(path).to_pylist()

    return read
