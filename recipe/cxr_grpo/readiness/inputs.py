"""Weights, data and rewards of a run: are they here, and do they work."""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open

from data_prep.checks import row as row_checks
from data_prep.checks.row_images import BadPicture, inspect, source
from recipe.cxr_grpo.plugin.trial import score_as_verl
from recipe.cxr_grpo.readiness.machine import Result
from reward_fns.errors import UsageError
from reward_fns.registry import FROM_VERL
from reward_fns.scoring import Rollout
from reward_fns.spec import Component, RewardSpec

_SAMPLE = 64  # rows of each file that are read, with their embedded films


def model_folder(name: str, download: bool) -> Path:
    """The folder of a model, a path or a hub id, with its config.json; UsageError. ``download`` fetches all files."""
    from huggingface_hub import snapshot_download

    folder = Path(name).expanduser()
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(name, local_files_only=not download))
        except Exception as error:  # of the hub's client, which has many
            why = f"{name} is not on this machine ({type(error).__name__})"
            raise UsageError(f"{why}: `hf download {name}`, or --download, where there is internet") from error
    _require(folder, name, ["config.json"])
    return folder


def check_weights(folder: Path, name: str) -> str:
    """How large the weights of the model ``name`` in a folder are, if nothing is missing or cut off; UsageError."""
    index = folder / "model.safetensors.index.json"
    shards = {*json.loads(index.read_text())["weight_map"].values()} if index.is_file() else {"model.safetensors"}
    _require(folder, name, ["tokenizer_config.json", *shards])
    for shard in sorted(shards):
        try:
            with safe_open(folder / shard, framework="numpy"):  # compares sizes, and reads no weight
                pass
        except SafetensorError as error:
            raise UsageError(f"{folder / shard} is damaged or cut off ({error}): copy it again") from error
    return f"{sum((folder / shard).stat().st_size for shard in shards) / 1e9:.2f} GB in {len(shards)} files"


def _require(folder: Path, name: str, files: Iterable[str]) -> None:
    if missing := sorted(file for file in files if not (folder / file).is_file()):
        raise UsageError(
            f"{folder} has no {', '.join(missing)}: `hf download {name}`, or --download; of your own, copy it again"
        )


def check_data(kind: str, files: Sequence[Path]) -> str:
    """How many rows files have, if columns and the first rows are right and the first film opens; UsageError."""
    for path in files:
        file, sft = pq.ParquetFile(path), kind == "sft"
        if not file.metadata.num_rows or row_checks.is_sft(file.schema_arrow) != sft:
            raise UsageError(f"{path} has no rows for {kind}: data_prep writes sft_* for sft, the others for grpo")
        defects = row_checks.schema_defects(file.schema_arrow)
        rows = [] if defects else next(file.iter_batches(_SAMPLE)).to_pylist()
        for row in rows:
            defects += row_checks.message_defects(row["messages" if sft else "prompt"], row["images"] or [], sft=sft)
            defects += [] if sft else row_checks.read_rl_row(row)[2]
        if defects:
            raise UsageError(f"{path}: {defects[0].detail}: make it again with python -m data_prep")
        film = next((film for row in rows for film in row["images"] or ()), None)
        try:
            _ = film and inspect(source(film), decode=True)
        except BadPicture as error:
            raise UsageError(f"{path}: {error}; or prepare the data again on this machine") from error
    total = sum(pq.read_metadata(path).num_rows for path in files)
    return f"{total:,} rows in {len(files)} files; `python -m data_prep validate` reads all of them"


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
