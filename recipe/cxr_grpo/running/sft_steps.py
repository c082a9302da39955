"""The steps of supervised training, and those that verl 0.9.1 would silently leave out."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from recipe.cxr_grpo.records import checkpoints
from reward_fns.errors import UsageError


def planned(config: Any) -> tuple[int, int] | None:
    """The steps of an epoch and of the whole training; None for a data set class of the user's, of unknown length.

    UsageError if there is not as much data: verl would end without a word, and without saving its last step.
    """
    data, trainer = config.data, config.trainer
    if data.custom_cls.path:
        return None
    files = [data.train_files] if isinstance(data.train_files, str) else data.train_files
    rows = sum(pq.read_metadata(path).num_rows for path in files)
    rows = min(rows, data.train_max_samples) if data.train_max_samples > 0 else rows
    ranks = trainer.nnodes * trainer.n_gpus_per_node // config.engine.ulysses_sequence_parallel_size
    epoch = rows // ranks // (data.train_batch_size // ranks)
    most = epoch * trainer.total_epochs
    steps = most if trainer.total_training_steps is None else trainer.total_training_steps
    if not 0 < steps <= most:
        raise UsageError(
            f"trainer.total_training_steps={steps}: {rows} rows are only {most} steps with trainer.total_epochs="
            f"{trainer.total_epochs} and data.train_batch_size={data.train_batch_size}. Change one of the three"
        )
    return epoch, steps


def complete(config: Any, folder: Path) -> bool | None:
    """Whether the last step planned is saved in ``folder``; None where nobody knows which one that is."""
    steps = planned(config)
    return steps and checkpoints.newest(folder) >= steps[1]


def begin_epoch(config: Any, checkpoint: Path) -> None:
    """If ``checkpoint``, a ``global_step_N``, is of the last step of an epoch, let verl go on with the next epoch.

    The state of the data loader says there that it is at its end. verl takes that for the next epoch's state, and would
    train nothing in it. Without a state, it reads the next epoch from its beginning, in that epoch's order.
    """
    steps = planned(config)
    if steps and int(checkpoint.name.rpartition("_")[2]) % steps[0] == 0:
        for path in checkpoint.glob("data_*.pt"):
            path.rename(path.with_name(f"data.at_the_end_{path.name}"))
