"""The model of a sharded checkpoint, with or without adapters, as a folder in Hugging Face format for any loader.

verl's own merger does the first part, in bf16. Of adapters it writes the bare base and, beside it, ``lora_adapter``.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from recipe.cxr_grpo.running.checks import ADAPTER, run_environment
from reward_fns.errors import UsageError

NOTE = "merged_from.json"  # in a merged folder: the checkpoint that it was made from


def sharded(checkpoint: Path) -> Path | None:
    """The folder of FSDP's shards in a ``global_step_N`` of GRPO or SFT, None if there is none."""
    return next((path for path in (checkpoint / "actor", checkpoint) if (path / "fsdp_config.json").is_file()), None)


def merge(checkpoint: Path, out: Path) -> str:
    """Write ``out``, the model of a ``global_step_N``, in bf16, unless it is there already; returns which is the case.

    One of another checkpoint is replaced once the new one is whole. UsageError for a folder that is no checkpoint of
    FSDP, and for an ``out`` that is something else; ValueError if the checkpoint can't be merged.
    """
    if not (shards := sharded(checkpoint)):
        raise UsageError(f"{checkpoint} is no checkpoint of FSDP: no fsdp_config.json. Name a folder global_step_N")
    note = json.dumps([str(checkpoint.absolute()), (shards / "fsdp_config.json").stat().st_mtime])
    if out.exists() and not (out / NOTE).is_file():
        raise UsageError(f"{out} is no merged model (it has no {NOTE}): choose another folder, or move it away")
    if out.exists() and (out / NOTE).read_text() == note:
        return f"{out} already is the model of {checkpoint}"
    work = out.with_name(f"{out.name}.tmp")
    shutil.rmtree(work, ignore_errors=True)  # what a killed merge left
    try:
        model = _merge_shards(shards, work / "model")
        if (model / ADAPTER).is_dir():
            model = merge_adapter(model, work / "merged")
        for path in (shards / "huggingface").iterdir():  # of tokenizer and processor, whatever has not been written yet
            if path.is_file() and ".safetensors" not in path.name and not (model / path.name).exists():
                shutil.copy(path, model)
        (model / NOTE).write_text(note)
        if out.exists():
            out.rename(work / "old")
        model.rename(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return f"{out} is the model of {checkpoint}"


def _merge_shards(shards: Path, target: Path) -> Path:
    command = [sys.executable, "-m", "verl.model_merger", "merge", "--backend", "fsdp"]
    command += ["--local_dir", str(shards), "--target_dir", str(target)]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, env=run_environment())
    print(done.stderr, file=sys.stderr)
    if done.returncode:
        raise ValueError(f"verl's merger failed on {shards}: {done.stderr.strip().rpartition(chr(10))[2]}")
    return target


def merge_adapter(model: Path, out: Path) -> Path:
    """Add the adapter in ``model/lora_adapter`` to the weights beside it, in bf16 on the CPU; returns ``out``.

    ValueError if a weight is missing, a sum is not finite, or none differs from the base's.
    """
    import torch
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer
    from transformers import AutoModelForImageTextToText

    load: Any = AutoModelForImageTextToText.from_pretrained
    base, report = load(model, dtype=torch.bfloat16, output_loading_info=True)
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"{len(missing)} weights of the base are not in the checkpoint, for example {missing[0]}")
    adapted = PeftModel.from_pretrained(base, model / ADAPTER)
    layers: list[Any] = [layer for layer in adapted.modules() if isinstance(layer, LoraLayer)]
    if all(layer.weight.equal(layer.weight + layer.get_delta_weight("default")) for layer in layers):
        raise ValueError("the adapter changes no weight of the base in bf16: it is untrained, or too small")
    adapted.merge_and_unload(safe_merge=True).save_pretrained(out)
    return out
