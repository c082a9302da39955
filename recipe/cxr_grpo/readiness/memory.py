"""The arithmetic of a run: what states, vLLM, films and checkpoints take of GPUs, host and disk."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data_prep.writer.dataset import MAX_PIXELS
from recipe.cxr_grpo.readiness.machine import ELSEWHERE, Result

PROFILES = {"gpu_24g": 24.0, "gpu_80g": 80.0, "node_8x80g": 80.0, "paper_32xgh200": 96.0}  # GiB of a GPU
_GIB = 2**30
_PIXEL = 3 * 4 * 2  # bytes: colors, fp32, and Qwen's processor gives every film as two frames
_SAMPLE = 256  # rows of a file whose films are measured
_STATES = 0.75  # of a GPU: activations, logits, CUDA's contexts and NCCL take the rest
_TIGHT = 0.9  # of a node's memory, in which other processes are, too


def skeleton(folder: Path, settings: Any) -> Any:
    """The model of a folder's config.json, with the adapters of a run's settings for it, on the meta device."""
    from recipe.cxr_grpo.cpu import shims

    shims.torchvision_operators()
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForImageTextToText

    with torch.device("meta"):
        model: Any = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder))
    rank, where = settings.lora_rank or settings.lora.rank, ("target_modules", "exclude_modules")
    return get_peft_model(model, LoraConfig(r=rank, **{key: settings[key] for key in where})) if rank else model


def fits(room: float | None, parts: Mapping[str, float], tight: float = 1.0) -> Result:
    """Whether bytes, by what they are for, fit into GiB (None: they are elsewhere); a warning over a share of it."""
    need = sum(parts.values()) / _GIB
    found = f"{need:.1f} GiB: " + " + ".join(f"{size / _GIB:.2f} {name}" for name, size in parts.items() if size)
    if room is None:
        return Result("skip", f"needs {found}; {ELSEWHERE}")
    status = "fail" if need > room else "warn" if need > tight * room else "pass"
    return Result(status, f"{room:.1f} GiB, needs {found}")


def film_bytes(files: Sequence[Path]) -> int:
    """Bytes of pixels that TransferQueue keeps of a rollout, at most, by the first rows of each file.

    Without files it is a film of as many pixels as ``data_prep`` stores.
    """
    largest = 0 if files else _PIXEL * MAX_PIXELS
    for path in files:
        for row in next(pq.ParquetFile(path).iter_batches(_SAMPLE, columns=["images", "extra_info"])).to_pylist():
            stored = row["extra_info"]["width"] * row["extra_info"]["height"]
            pixels = sum(min(stored, film.get("max_pixels") or stored) for film in row["images"] or ())
            largest = max(largest, _PIXEL * pixels)
    return largest


class Budget:
    """What a run of ``kind`` (grpo or sft) needs for the model of a folder; ``room`` is in GiB."""

    def __init__(self, kind: str, config: Any, folder: Path, model_settings: Any) -> None:
        self.config, self.trainer, self.model = config, config.trainer, skeleton(folder, model_settings)
        part = config.actor_rollout_ref.actor if kind == "grpo" else config
        self.engine, self.saved = part.fsdp_config if kind == "grpo" else part.engine, part.checkpoint.save_contents
        self.settings: Any = config.actor_rollout_ref if kind == "grpo" else None
        self.keep = "max_actor_ckpt_to_keep" if kind == "grpo" else "max_ckpt_to_keep"
        self.size, self.every = _bytes(self.engine.model_dtype), self.model.num_parameters()
        self.trained = self.model.num_parameters(only_trainable=True)
        self.adapters = self.trained < self.every

    def __str__(self) -> str:
        return f"{self.every / 1e9:.3f} B parameters, {self.trained / 1e9:.3f} B of them trained"

    def states(self) -> dict[str, float]:
        """Bytes of weights, gradients and Adam's moments on a GPU."""
        gpus, size = self.trainer.nnodes * self.trainer.n_gpus_per_node, self.size
        gpus = self.engine.fsdp_size if self.engine.fsdp_size > 0 else gpus
        counts = {"weights": self.every, "gradients": self.trained, "Adam": 2 * self.trained}
        return {f"{k} ({n / 1e9:.2f} B x {size} bytes / {gpus} GPUs)": n * size / gpus for k, n in counts.items()}

    def updates(self, room: float) -> Result:
        """What is on a GPU while the model is trained, but for activations."""
        parts = self.states()
        if self.settings and not self.settings.rollout.free_cache_engine:
            parts["vLLM"] = self.settings.rollout.gpu_memory_utilization * room * _GIB
        return fits(room, parts, _STATES)

    def rollouts(self, room: float) -> Result:
        """What is on a GPU while vLLM answers, and whether vLLM's share of it has room for weights and one answer."""
        rollout, text = self.settings.rollout, self.model.config.get_text_config()
        split, value = rollout.tensor_model_parallel_size, _bytes(rollout.dtype)
        head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        token, tokens = 2 * text.num_hidden_layers * text.num_key_value_heads * head * value, rollout.max_model_len
        answer, share = f"an answer ({tokens} x {token} bytes)", rollout.gpu_memory_utilization * room
        served = {"weights": value * self.every / split, answer: tokens * token / split}
        vllm = fits(share, served)
        if vllm.status == "fail":
            return vllm._replace(found=f"vLLM has {vllm.found}")
        (weights, size), _, (adam, moments) = self.states().items()
        waiting = {weights: size * (not self.engine.param_offload), adam: moments * (not self.engine.optimizer_offload)}
        return fits(room, {f"vLLM (has {vllm.found})": share * _GIB} | waiting)

    def host(self, train: Sequence[Path], val: Sequence[Path], room: float | None) -> Result:
        """What GRPO keeps in the memory of each node: films of a step or a validation, and models that wait there."""
        rollout, data, nodes = self.settings.rollout, self.config.data, self.trainer.nnodes
        rows = min([_rows(val), *(n for n in (data.val_max_samples, data.val_batch_size) if n and n > 0)])
        step, validation = data.train_batch_size * rollout.n, rows * rollout.val_kwargs.n
        films = max(step * film_bytes(train), validation * film_bytes(val))
        adapters, on_host = self.adapters, self.trainer.device == "cpu"
        reference = (self.settings.actor.use_kl_loss or self.config.algorithm.use_kl_in_reward) and not adapters
        # With adapters verl puts vLLM to sleep at level 1: its weights wait in the host's memory.
        engines = adapters and rollout.free_cache_engine and self.trainer.n_gpus_per_node * nodes
        parts = {
            f"films ({step} rollouts, or {validation} in validation)": films,
            "reference model": reference * _bytes(self.settings.ref.fsdp_config.model_dtype) * self.every,
            "trainer's weights": (self.engine.param_offload or on_host) * self.size * self.every,
            "its Adam": (self.engine.optimizer_offload or on_host) * 2 * self.size * self.trained,
            "vLLM's weights": engines * _bytes(rollout.dtype) * self.every / rollout.tensor_model_parallel_size,
        }
        return fits(room, {name: part / nodes for name, part in parts.items()}, _TIGHT)

    def disk(self, room: float, train: Sequence[Path], merged: bool) -> Result:
        """The checkpoints that there are at once, less those that there are now, and the ``merged`` model at the end.

        A resumed run has twice those that verl keeps, because verl forgets what an earlier attempt has saved.
        """
        trainer, batch = self.trainer, self.config.data.train_batch_size
        steps, freq = trainer.total_training_steps or trainer.total_epochs * (_rows(train) // batch), trainer.save_freq
        saves = trainer.total_epochs if isinstance(freq, str) else math.ceil(steps / freq) if freq > 0 else 1
        copies = min(saves, 2 * trainer[self.keep]) if trainer[self.keep] else saves
        sizes = {"model": self.size * self.every, "optimizer": 2 * self.size * self.trained, "hf_model": 4 * self.every}
        parts = {f"{copies} x {part}": copies * sizes[part] for part in self.saved if part in sizes}
        # Of adapters, the base is merged first.
        parts["model at the end"] = merged * (1 + self.adapters) * 2 * self.every
        kept = (path for path in Path(trainer.default_local_dir).glob("global_step_*") if not path.suffix)  # .damaged
        files = (path for checkpoint in kept for path in checkpoint.rglob("*") if path.is_file())
        parts["there already"] = -sum(path.stat().st_size for path in files)
        return fits(room, parts)


def _rows(files: Sequence[Path]) -> int:
    return sum(pq.read_metadata(path).num_rows for path in files)


def _bytes(dtype: str) -> int:
    return 4 if "32" in dtype else 2
