"""Weights, data and rewards of a run: are they here, and do they work."""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq

from data_prep.checks import row as row_checks
from data_prep.checks.row_images import BadPicture, inspect, source
from recipe.cxr_grpo.plugin.trial import score_as_verl
from recipe.cxr_grpo.readiness.machine import Result
from reward_fns.errors import UsageError
from reward_fns.registry import FROM_VERL
from reward_fns.scoring import Rollout
from reward_fns.spec import Component, RewardSpec


def model_folder(name: str, download: bool) -> Path:
    """The folder of a model, a path or a hub id, that has all its files; UsageError. ``download`` fetches those."""
    from huggingface_hub import snapshot_download

    folder = Path(name).expanduser()
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(name, local_files_only=not download))
        except Exception as error:  # of the hub's client, which has many
            why = f"{name} is not on this machine ({type(error).__name__})"
            raise UsageError(f"{why}: `hf download {name}`, or --download, where there is internet") from error
    index = folder / "model.safetensors.index.json"
    shards = {*json.loads(index.read_text())["weight_map"].values()} if index.is_file() else {"model.safetensors"}
    if missing := sorted(file for file in {"config.json", *shards} if not (folder / file).is_file()):
        raise UsageError(f"{folder} has no {', '.join(missing)}: `hf download {name}`, or copy the model again")
    return folder


def check_data(kind: str, files: Sequence[Path]) -> str:
    """How many rows files have, if their columns are right and the first film of each opens; UsageError."""
    for path in files:
        file = pq.ParquetFile(path)
        if not file.metadata.num_rows or row_checks.is_sft(file.schema_arrow) != (kind == "sft"):
            raise UsageError(f"{path} has no rows for {kind}: data_prep writes sft_* for sft, the others for grpo")
        if defects := row_checks.schema_defects(file.schema_arrow):
            raise UsageError(f"{path}: {defects[0].detail}: make it again with python -m data_prep")
        films = next(file.iter_batches(1, columns=["images"])).to_pylist()[0]["images"]
        try:
            _ = films and inspect(source(films[0]), decode=True)
        except BadPicture as error:
            raise UsageError(f"{path}: {error}; or prepare the data again on this machine") from error
    rows = sum(pq.ParquetFile(path).metadata.num_rows for path in files)
    return f"{rows:,} rows in {len(files)} files; `python -m data_prep validate` reads all of them"


def check_reward(row: Rollout, task: str, part: Component, spec: RewardSpec, verl_judge: bool) -> Result:
    """One reward on a row's gold answer. A reward of weight 0, which only watches, fails with a warning."""
    if verl_judge and set(part.reward.context) & set(FROM_VERL):
        return Result("skip", "asks the judge that verl starts with the run")
    engine = spec.engine
    if engine.where == "ray":  # which is not there yet
        engine = replace(engine, where="inline", replicas=1, max_replicas=0, gpus=0.0, cpus=1.0, device="auto")
    start = time.monotonic()
    (result,) = score_as_verl([row], replace(spec, tasks={task: (replace(part, weight=1.0),)}, engine=engine), {})
    if isinstance(result, Exception):
        return Result("fail" if part.weight else "warn", str(result))
    return Result("pass", f"{result['score']:.3f} for a true {task}, in {time.monotonic() - start:.1f} s")
