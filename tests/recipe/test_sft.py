"""verl's supervised trainer for real, on the CPU: over the end of an epoch, and from adapters to a model."""

import shutil
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

pytest.importorskip("verl")

import torch
import torch.distributed.tensor  # what shards are made of
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForImageTextToText

from data_prep.cli import main as data_prep
from recipe.cxr_grpo.demo import architecture
from recipe.cxr_grpo.demo.pretraining import MODEL
from recipe.cxr_grpo.results.metrics import read_metrics

BATCH, STEPS_PER_EPOCH = 8, 2


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """The rows of an epoch of two steps."""
    folder = tmp_path_factory.mktemp("rows")
    drawn = ["--patients", "12", "--shares", "1,0,0", "--max-pixels", str(architecture.IMAGE_SIDE**2)]
    assert data_prep(["demo", "--out", str(folder / "data"), *drawn]) == 0
    table = pq.read_table(folder / "data" / "sft_train.parquet").slice(0, BATCH * STEPS_PER_EPOCH)
    pq.write_table(table, folder / "rows.parquet")
    return folder / "rows.parquet"


def train(rows, out, *arguments):
    settings = {
        "data.train_files": rows, "model.path": MODEL, "data.train_batch_size": BATCH,
        "data.micro_batch_size_per_gpu": BATCH, "trainer.total_epochs": 2, "trainer.total_training_steps": "null",
        "trainer.save_freq": STEPS_PER_EPOCH,
    }  # fmt: skip
    command = [sys.executable, "-m", "recipe.cxr_grpo.launch", "sft", "--out", str(out)]
    command += [*(f"{key}={value}" for key, value in settings.items()), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return read_metrics(out, "sft")


@pytest.mark.e2e
def test_the_epoch_after_a_checkpoint_is_trained_as_if_nothing_had_happened(rows, tmp_path):
    whole = train(rows, tmp_path / "whole", "--no-merge")
    assert set(whole) == {1, 2, 3, 4}
    checkpoints = tmp_path / "resumed" / "checkpoints"
    shutil.copytree(tmp_path / "whole" / "checkpoints" / "global_step_2", checkpoints / "global_step_2")
    (checkpoints / "latest_checkpointed_iteration.txt").write_text("2")
    resumed = train(rows, tmp_path / "resumed", "--no-merge")
    for step in (3, 4):
        assert resumed[step]["train/loss"] == pytest.approx(whole[step]["train/loss"], rel=1e-5)
    assert (checkpoints / "latest_checkpointed_iteration.txt").read_text() == "4"
    shutil.copytree(checkpoints / "global_step_2", checkpoints / "global_step_1")  # left by an earlier attempt
    assert set(train(rows, tmp_path / "resumed", "--no-merge")) == {3, 4}  # complete: nothing more is trained
    assert sorted(path.name for path in checkpoints.glob("global_step_*")) == ["global_step_2", "global_step_4"]


@pytest.mark.e2e
def test_sft_of_adapters_ends_with_a_model_that_has_them(rows, tmp_path):
    saved = "checkpoint.save_contents=[model,optimizer,extra]"
    train(rows, tmp_path, "+part@model=lora", saved, "trainer.total_training_steps=2", "optim.lr=1e-2")
    folders = (MODEL, tmp_path / "model")
    base, merged = (AutoModelForImageTextToText.from_pretrained(path, dtype=torch.bfloat16) for path in folders)
    assert not (tmp_path / "model" / "lora_adapter").exists()
    shard = torch.load(tmp_path / "checkpoints/global_step_2/model_world_size_1_rank_0.pt", weights_only=True)
    weights = {name: part.to_local() if hasattr(part, "to_local") else part for name, part in shard.items()}
    words = {"input_ids": torch.arange(40, 72)[None]}
    with torch.no_grad():
        before = base(**words).logits
        settings = LoraConfig(r=32, lora_alpha=64, target_modules="all-linear", exclude_modules=".*visual.*")
        adapted = get_peft_model(base, settings)  # as verl builds it
        missing = adapted.load_state_dict(weights, strict=False).missing_keys
        assert any("lora_B" in name for name in weights) and not [name for name in missing if "lora_" in name]
        after = adapted(**words).logits
        tolerance = 0.02 * float(after.abs().max())
        torch.testing.assert_close(merged(**words).logits, after, atol=tolerance, rtol=0.0)
        assert float((after - before).abs().max()) > 5 * tolerance
