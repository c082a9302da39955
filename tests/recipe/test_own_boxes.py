"""examples/own_boxes.sh, on a COCO file made from demo films."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

pytest.importorskip("verl")

from data_prep.cli import main as data_prep

SCRIPT = Path(__file__).parents[2] / "examples" / "own_boxes.sh"
SIDE = 256


def write_coco(folder, patients):
    """Demo films as somebody's own: films/p00000-0.png and so on, and boxes.json."""
    assert data_prep(["demo", "--out", str(folder / "demo"), "--patients", str(patients), "--shares", "1,0,0"]) == 0
    (folder / "films").mkdir()
    images, annotations, categories = {}, [], {}
    for row in pq.read_table(folder / "demo" / "train.parquet").to_pylist():
        truth = json.loads(row["reward_model"]["ground_truth"])
        if truth["task"] != "grounding":
            continue
        patient, number, *_ = truth["id"].split("-")
        name = f"{patient}-{number}.png"
        shutil.copy(row["images"][0]["image"].removeprefix("file://"), folder / "films" / name)
        image = images.setdefault(name, {"id": len(images), "file_name": name, "width": SIDE, "height": SIDE})
        for label, (x1, y1, x2, y2) in zip(truth["labels"], truth["boxes"], strict=True):
            box = [side * SIDE for side in (x1, y1, x2 - x1, y2 - y1)]
            category = categories.setdefault(label, len(categories))
            annotations.append({"id": len(annotations), "image_id": image["id"], "category_id": category, "bbox": box})
    listed = [{"id": number, "name": label} for label, number in categories.items()]
    coco = {"images": [*images.values()], "annotations": annotations, "categories": listed}
    (folder / "boxes.json").write_text(json.dumps(coco))
    return len(images)


def run(*arguments, **env):
    command = ["bash", str(SCRIPT), *map(str, arguments)]
    environment = os.environ | {"VENV": sys.prefix} | env
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --root and --annotations"),
        (["--root"], "--root needs a value"),
        (["--root", "x", "--annotations", "y", "--stpes", "3"], "unknown argument --stpes"),
    ],
)
def test_wrong_use_has_status_2(arguments, message):
    done = run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr


def test_a_missing_environment_is_named(tmp_path):
    done = run("--root", tmp_path, "--annotations", tmp_path / "boxes.json", VENV=str(tmp_path / "venv"))
    assert done.returncode == 2
    assert f"no virtual environment {tmp_path / 'venv'}" in done.stderr


@pytest.mark.e2e
@pytest.mark.vllm
def test_own_boxes_are_trained_on_and_the_measure_is_shown(tmp_path):
    write_coco(tmp_path, 40)
    actor = "actor_rollout_ref.actor.ppo_m"
    small = ["data.train_batch_size=4", f"{actor}ini_batch_size=4", f"{actor}icro_batch_size_per_gpu=16"]
    small += ["actor_rollout_ref.rollout.n=4", "--sft-steps", 4, "--steps", 1]
    data = ["--root", tmp_path / "films", "--annotations", tmp_path / "boxes.json", "--mix", tmp_path / "demo"]
    done = run(*data, "--patient-regex", "^(p[0-9]+)", "--out", tmp_path / "run", *small)
    assert done.returncode == 0, done.stdout + done.stderr
    before, after = (line for line in done.stdout.splitlines() if "swapped" in line and "own film" in line)
    assert before.startswith("step 0, grounding: own film ") and after.startswith("step 1, grounding: own film ")
    assert "n=" in after
