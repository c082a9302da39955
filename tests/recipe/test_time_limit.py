"""A GRPO run that its job's time limit stops, and the run that goes on: verl's trainer for real, on the CPU."""

import json
import os
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest

pytest.importorskip("verl")

from data_prep.cli import main as data_prep
from recipe.cxr_grpo.demo import architecture
from recipe.cxr_grpo.demo.pretraining import MODEL
from recipe.cxr_grpo.results.metrics import read_metrics

pytestmark = pytest.mark.e2e
PROMPTS, STEPS = 2, 3


def launch(folder, **env):
    settings = {
        "data.train_files": folder / "train.parquet", "data.val_files": folder / "train.parquet",
        "actor_rollout_ref.model.path": MODEL, "actor_rollout_ref.rollout.name": "hf", "trainer.save_freq": -1,
        "trainer.total_training_steps": STEPS, "trainer.val_before_train": "false", "trainer.test_freq": -1,
        "data.train_batch_size": PROMPTS, "actor_rollout_ref.actor.ppo_mini_batch_size": PROMPTS,
        "actor_rollout_ref.rollout.n": 2, "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu": 4,
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu": 4,
    }  # fmt: skip
    command = [sys.executable, "-m", "recipe.cxr_grpo.launch", "grpo", "--out", str(folder / "run")]
    command += [f"{key}={value}" for key, value in settings.items()]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | env)


def test_a_run_that_the_time_limit_stops_is_saved_and_goes_on_with_the_next_prompts(tmp_path):
    side = str(architecture.IMAGE_SIDE**2)
    drawn = ["--patients", "16", "--shares", "1,0,0", "--max-pixels", side]
    assert data_prep(["demo", "--out", str(tmp_path / "data"), *drawn]) == 0
    rows = pq.read_table(tmp_path / "data" / "train.parquet").slice(0, PROMPTS * STEPS)
    pq.write_table(rows, tmp_path / "train.parquet")

    first = launch(tmp_path, SLURM_JOB_END_TIME=str(int(time.time()) + 1))
    assert first.returncode == 75, first.stderr
    assert first.stderr.endswith("launch: saved at step 1 before the time limit; the same command goes on\n")
    saved = tmp_path / "run" / "checkpoints" / "global_step_1"
    assert (saved / "manifest.json").exists() and set(read_metrics(tmp_path / "run", "grpo")) == {1}
    assert not (tmp_path / "run" / "rollouts" / "2.jsonl").exists()

    second = launch(tmp_path)
    assert second.returncode == 0, second.stderr
    (log,) = (tmp_path / "run").glob("grpo.metrics.2.jsonl")
    assert [json.loads(line)["step"] for line in log.open()] == [2, 3]
    asked = [
        {json.loads(line)["id"] for line in (tmp_path / "run" / "rollouts" / f"{step}.jsonl").open()}
        for step in (1, 2, 3)
    ]
    # Every row of the data once: the second run neither starts the data again nor skips any.
    assert sorted(row for step in asked for row in step) == sorted(
        info["id"] for info in rows["extra_info"].to_pylist()
    )
