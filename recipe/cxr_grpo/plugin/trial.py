"""Before the first step: the tasks of the data against those of the spec, and each reward on a row of each task."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.checks import gold
from reward_fns.calling import forget
from reward_fns.errors import UsageError
from reward_fns.ground_truth import parse_ground_truth
from reward_fns.registry import FROM_VERL
from reward_fns.scoring import Result, Rollout, score_batch
from reward_fns.spec import RewardSpec, resolve

COLUMNS = ["data_source", "reward_model", "extra_info"]


def parquet_files(config: Any) -> list[Path]:
    """The local parquet files of a run's config, for training and validation, in order."""
    given = [config.data.train_files, config.data.val_files]
    names = [name for files in given for name in ([files] if isinstance(files, str) else files or [])]
    return [path for path in (Path(str(name)) for name in names) if path.is_file()]


def row_of_each_task(files: Sequence[Path], spec: RewardSpec) -> list[Rollout]:
    """The first row of each task in ``files``, with its gold answer; UsageError for a task that the spec lacks.

    Reads one column of every file and, of the first file with a task, the row groups up to that row. Files that are
    not in this package's format are left to verl.
    """
    found: dict[str, Rollout] = {}
    for path in files:
        try:
            file = pq.ParquetFile(path)
        except pa.ArrowInvalid as error:
            raise UsageError(f"{path} can't be read as parquet: {error}. Make it again with data_prep.") from error
        if not set(COLUMNS) <= set(file.schema_arrow.names):
            continue
        for group in range(file.num_row_groups):
            sources = file.read_row_group(group, columns=["data_source", "extra_info.task"]).to_pylist()
            tasks = [_task(row) for row in sources]
            for task in dict.fromkeys(tasks):
                if task not in spec.tasks:
                    raise UsageError(
                        f"{path} has rows of task {task!r}, for which the reward spec has no rewards, only for "
                        f"{', '.join(spec.tasks)}. Add the task to the spec, or leave these rows out of the data"
                    )
            for task in dict.fromkeys(tasks):
                if task not in found:
                    row = file.read_row_group(group, columns=COLUMNS).slice(tasks.index(task), 1).to_pylist()[0]
                    found[task] = _gold(row, task)
    return list(found.values())


def _task(row: Mapping[str, Any]) -> str:
    return (row.get("extra_info") or {}).get("task") or str(row["data_source"]).rpartition("/")[2]


def _gold(row: Mapping[str, Any], task: str) -> Rollout:
    truth, _ = parse_ground_truth(row["reward_model"]["ground_truth"], task)
    info = row["extra_info"]
    text = gold.answer(truth, {"box_format": "radvlm", **info}) if truth else ""  # a wrong row is scoring's to refuse
    text = f"<think>I look at the film.</think> {text}" if info.get("thinking") else text
    return Rollout(row["data_source"], text, row["reward_model"]["ground_truth"], info)


def try_rewards(worker: Any, rows: Sequence[Rollout], reward_kwargs: Mapping[str, Any], global_steps: int = 0) -> str:
    """Why a reward can't score a row, "" if all can; runs inside one of verl's reward workers, whose counts stay 0."""
    spec = resolve(spec=reward_kwargs.get("spec"), preset=reward_kwargs.get("preset"))
    judge = {key: getattr(worker, key, None) for key in FROM_VERL}
    try:
        results = score_as_verl(rows, spec, judge, global_steps)
    except UsageError as error:
        return str(error)
    return next((str(result) for result in results if isinstance(result, Exception)), "")


def score_as_verl(
    rows: Sequence[Rollout], spec: RewardSpec, judge: Mapping[str, Any], global_steps: int = 0
) -> list[Result]:
    """`score_batch` with what verl adds to a row, without a trace in this process's counts; ``judge`` is verl's own."""
    # What verl 0.9.1 adds to extra_info (reward_loop/reward_manager/naive.py), for rewards that look at it.
    from_rollout = {"num_turns": 2, "rollout_reward_scores": {}}
    from_rollout |= dict.fromkeys(("global_steps", "min_global_steps", "max_global_steps"), global_steps)
    try:
        return score_batch(
            [row._replace(extra_info={**row.extra_info, **from_rollout}, from_verl=judge) for row in rows], spec
        )
    finally:
        forget()
