"""Score a model's greedy answers, on each patient's own film and on controls, with verl's own validation."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recipe.cxr_grpo.results import films, validation
from recipe.cxr_grpo.running.training import run_training

Evaluation = Mapping[str, Mapping[str, validation.Row]]
"""Rows by sample id, for the own films and for each control."""


def evaluate(model: Path, sources: Sequence[Path], out: Path, *overrides: str, seed: int = 0) -> Evaluation:
    """Answer the questions of ``sources`` and of their swapped films; log and dump are in ``out``. RunFailed."""
    files = [*sources, *films.write_controls(sources, out / "films", seed=seed)]
    chosen: dict[str, Any] = {
        "actor_rollout_ref.model.path": model,
        "data.train_files": sources[0],
        "data.val_files": f"[{','.join(map(str, files))}]",
        "trainer.val_only": "true",
        "trainer.default_local_dir": out / "checkpoints",
        "trainer.validation_data_dir": out / "validation",
    }
    run_training("grpo", "quickstart_grpo", [*(f"{key}={value}" for key, value in chosen.items()), *overrides], out=out)
    return validation.read_validation(out / "validation" / "0.jsonl")
