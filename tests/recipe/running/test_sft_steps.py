"""Supervised training to its last step: what is planned, and the way over the end of an epoch."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("verl")

from recipe.cxr_grpo.records.checkpoints import TRACKER
from recipe.cxr_grpo.running import checks, config_checks, sft_steps
from reward_fns.errors import UsageError


@pytest.fixture
def config(tmp_path):
    """The config of an SFT on 20 rows in two files, with batches of 8."""
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for path in paths:
        pq.write_table(pa.table({"messages": [["row"]] * 10}), path)

    def composed(*overrides):
        files = f"data.train_files=[{','.join(map(str, paths))}]"
        batch = ["data.train_batch_size=8", "data.micro_batch_size_per_gpu=4", "trainer.total_training_steps=null"]
        return checks.compose("quickstart_sft", [files, *batch, "trainer.total_epochs=3", *overrides])

    return composed


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [
        ([], (2, 6)),
        (["trainer.total_training_steps=5"], (2, 5)),
        (["trainer.n_gpus_per_node=4"], (2, 6)),
        (["data.train_max_samples=9"], (1, 3)),
        (["data.custom_cls.path=mine.py"], None),
    ],
)
def test_the_steps_that_are_planned(config, overrides, steps):
    assert sft_steps.planned(config(*overrides)) == steps


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["trainer.total_training_steps=7"],
            r"total_training_steps=7: 20 rows are only 6 steps with trainer\.total_ep",
        ),
        (
            ["data.train_batch_size=24"],
            "20 rows are only 0 steps with trainer.total_epochs=3 and data.train_batch_size=24",
        ),
    ],
)
def test_more_steps_than_there_is_data_for_are_refused(config, overrides, message):
    with pytest.raises(UsageError, match=message):
        sft_steps.planned(config(*overrides))


def test_only_an_epoch_s_last_step_loses_the_state_of_its_data(config, tmp_path):
    for step in (3, 4):
        checkpoint = tmp_path / f"global_step_{step}"
        checkpoint.mkdir()
        for rank in (0, 1):
            (checkpoint / f"data_{rank}.pt").touch()
        sft_steps.begin_epoch(config(), checkpoint)
    assert len([*(tmp_path / "global_step_3").glob("data_*.pt")]) == 2
    assert not [*(tmp_path / "global_step_4").glob("data_*.pt")]
    assert len([*(tmp_path / "global_step_4").glob("data*.pt")]) == 2  # what the check of a checkpoint asks for


def test_a_training_is_complete_when_its_last_step_is_saved(config, tmp_path):
    assert not sft_steps.complete(config(), tmp_path)
    (tmp_path / TRACKER).write_text("4")
    assert sft_steps.complete(config(), tmp_path) is False
    (tmp_path / TRACKER).write_text("6")
    assert sft_steps.complete(config(), tmp_path)
    assert sft_steps.complete(config("data.custom_cls.path=mine.py"), tmp_path) is None


def test_a_single_kept_checkpoint_is_refused(config):
    for kind, key in (("sft", "max_ckpt_to_keep"), ("grpo", "max_actor_ckpt_to_keep")):
        base = config if kind == "sft" else lambda *more: checks.compose("quickstart_grpo", more)
        with pytest.raises(UsageError, match=rf"trainer\.{key}=1: verl 0\.9\.1 deletes the old checkpoint .* Keep 2"):
            config_checks.check_config(kind, base(f"trainer.{key}=1"))
        config_checks.check_config(kind, base(f"trainer.{key}=null"))
