"""Real GRPO runs of a few steps on the CPU, and what they leave behind."""

import json
import os
from pathlib import Path

import psutil

from recipe.cxr_grpo.running import processes
from recipe.cxr_grpo.running.training import run_training

SMALL = [
    "data.train_batch_size=4", "actor_rollout_ref.actor.ppo_mini_batch_size=4", "actor_rollout_ref.rollout.n=4",
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=16",
]  # fmt: skip
# tests/recipe/conftest.py puts it into the environment of all that these tests start.
TESTED_BY = f"CXR_GRPO_TESTED_BY={os.getpid()}"


def grpo(out, model, train, val, steps, *overrides):
    """Train so many steps in this process's name; returns the last step's rollouts."""
    arguments = [
        f"data.train_files={train}", f"data.val_files={val}", f"actor_rollout_ref.model.path={model}",
        f"trainer.default_local_dir={out}/checkpoints", f"trainer.rollout_data_dir={out}/rollouts",
        f"trainer.total_training_steps={steps}", "trainer.save_freq=-1", "trainer.test_freq=-1",
        "trainer.val_before_train=false", *SMALL, *overrides,
    ]  # fmt: skip
    run_training("grpo", "quickstart_grpo", arguments, out=out)
    return dump(out, steps)


def dump(out, step):
    """The rollouts of a step."""
    return [json.loads(line) for line in (out / "rollouts" / f"{step}.jsonl").read_text().splitlines()]


def left_over():
    """Processes of runs of these tests."""
    marks = []
    for process in psutil.process_iter():
        try:
            environment = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
        except (psutil.Error, OSError):
            continue
        here = TESTED_BY.encode() in environment
        marks += [process.pid] if here and any(v.startswith(f"{processes.MARK}=".encode()) for v in environment) else []
    return marks
