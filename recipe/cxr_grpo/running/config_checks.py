"""Settings that verl 0.9.1 would ignore, or fail on minutes after the start of a run."""

import fnmatch
import functools
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any

import yaml

from reward_fns.errors import UsageError

STOCK = {"grpo": "ppo_trainer", "sft": "sft_trainer_engine"}
"""verl's own config of each trainer."""

DEAD: dict[str, dict[str, str]] = yaml.safe_load((resources.files(__package__) / "dead_keys.yaml").read_text())


def check_config(kind: str, config: Any) -> None:
    """Raise UsageError for settings of trainer ``kind`` (grpo or sft) that do nothing, contradict others or fail."""
    check_keys(kind, config)
    check_lora(kind, config)
    check_kept(kind, config)
    if kind == "grpo":
        check_lengths(config)
        check_batches(config)
    else:
        check_sft_batches(config)
        check_validation(config)


def leaves(node: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values in nested mappings; interpolations stay as they are written.

    >>> dict(leaves({"data": {"seed": 0, "files": []}}))
    {'data.seed': 0, 'data.files': []}
    """
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from leaves(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, node


def plain(config: Any) -> dict[str, Any]:
    """The leaves of an OmegaConf config."""
    from omegaconf import OmegaConf

    return dict(leaves(OmegaConf.to_container(config, resolve=False)))


@functools.cache
def stock(kind: str) -> dict[str, Any]:
    """The leaves of verl's own config of a trainer."""
    import hydra

    with hydra.initialize_config_module("verl.trainer.config", version_base=None):
        return plain(hydra.compose(STOCK[kind]))


def changed(kind: str, config: Any) -> dict[str, Any]:
    """The leaves of a config that verl's own lacks or has with another value."""
    own = stock(kind)
    return {key: value for key, value in plain(config).items() if key not in own or own[key] != value}


def check_keys(kind: str, config: Any) -> None:
    """Raise UsageError for a setting that verl never reads, unless it has verl's own value."""
    for key in changed(kind, config):
        for pattern, advice in DEAD[kind].items():
            if fnmatch.fnmatchcase(key, pattern):
                raise UsageError(f"{key}: verl 0.9.1 accepts it and never reads it; {advice}")


def check_lora(kind: str, config: Any) -> None:
    """Raise UsageError for adapters that no loader could read, or that rollouts would not get."""
    model = config.actor_rollout_ref.model if kind == "grpo" else config.model
    saved = (config.actor_rollout_ref.actor if kind == "grpo" else config).checkpoint.save_contents
    if "hf_model" in saved and _adapters(model):
        name = ("actor_rollout_ref.actor." if kind == "grpo" else "") + "checkpoint.save_contents"
        raise UsageError(
            f"{name} has hf_model, which verl 0.9.1 writes for LoRA under names that no loader knows: leave it out"
        )
    if kind == "grpo" and config.actor_rollout_ref.rollout.name == "hf" and _adapters(model):
        raise UsageError(
            "actor_rollout_ref.rollout.name=hf: verl sends the rollouts of LoRA only the adapters, which "
            "transformers.generate has no place for. Use actor_rollout_ref.rollout.name=vllm"
        )


def check_kept(kind: str, config: Any) -> None:
    """Raise UsageError if a run that is killed while it saves could be left without any checkpoint."""
    key = "max_actor_ckpt_to_keep" if kind == "grpo" else "max_ckpt_to_keep"
    if config.trainer[key] == 1:
        raise UsageError(f"trainer.{key}=1: verl 0.9.1 deletes the old checkpoint before the new one is whole. Keep 2")


def check_lengths(config: Any) -> None:
    """Raise UsageError for answers that vLLM would have no room for, or far too much of it."""
    key, given = "actor_rollout_ref.rollout.max_model_len", config.actor_rollout_ref.rollout.max_model_len
    need = config.data.max_prompt_length + config.data.max_response_length
    if given is None:
        raise UsageError(
            f"{key} is null: vLLM would make room for the longest text that the model can read, and start on no GPU. "
            f"Set it to data.max_prompt_length + data.max_response_length = {need}"
        )
    if given < need:
        raise UsageError(f"{key}={given} is less than data.max_prompt_length + data.max_response_length = {need}")


def check_batches(config: Any) -> None:
    """Raise UsageError for batches of GRPO that verl would refuse at its first update, minutes into the run."""
    settings, gpus = config.actor_rollout_ref, _gpus(config)
    actor = settings.actor
    batch, mini, n = config.data.train_batch_size, actor.ppo_mini_batch_size, settings.rollout.n
    if batch % mini:
        raise UsageError(f"data.train_batch_size={batch} is not a multiple of ppo_mini_batch_size={mini} (prompts)")
    split = max(actor.ulysses_sequence_parallel_size, actor.fsdp_config.ulysses_sequence_parallel_size)
    for key, size in (
        ("rollout.tensor_model_parallel_size", settings.rollout.tensor_model_parallel_size),
        ("actor.fsdp_config.ulysses_sequence_parallel_size", split),
    ):
        if gpus % size:
            raise UsageError(f"actor_rollout_ref.{key}={size} does not divide {_place(config)}")
    ranks = gpus // split
    if mini * n % ranks:
        raise UsageError(
            f"actor.ppo_mini_batch_size={mini} prompts x rollout.n={n} answers can't be divided among {_place(config)}"
        )
    for key, prompts_key in _micro_batches(config):
        section, name = key.split(".")
        share = (mini if prompts_key.startswith("actor") else batch) * n // ranks
        if (answers := settings[section][name]) and share % answers:
            raise UsageError(
                f"{key}={answers} does not divide the {share} answers of each GPU: {prompts_key} prompts x "
                f"rollout.n={n} answers on {_place(config)}; keys actor, ref and rollout are in actor_rollout_ref"
            )


def _micro_batches(config: Any) -> Iterator[tuple[str, str]]:
    """The micro-batches of fixed size that a run uses, each with the batch of prompts that it divides."""
    settings = config.actor_rollout_ref
    kl = settings.actor.use_kl_loss or config.algorithm.use_kl_in_reward
    adapters = _adapters(settings.model)
    if not settings.actor.use_dynamic_bsz:
        yield "actor.ppo_micro_batch_size_per_gpu", "actor.ppo_mini_batch_size"
    if kl and not adapters and not settings.ref.log_prob_use_dynamic_bsz:
        yield "ref.log_prob_micro_batch_size_per_gpu", "data.train_batch_size"
    # With adapters, the policy without them is the reference.
    old = (kl and adapters) or not config.algorithm.rollout_correction.bypass_mode
    if old and not settings.rollout.log_prob_use_dynamic_bsz:
        yield "rollout.log_prob_micro_batch_size_per_gpu", "data.train_batch_size"


def check_sft_batches(config: Any) -> None:
    """Raise UsageError for batches of SFT of which verl would drop a part, or that it would refuse."""
    data, split = config.data, config.engine.ulysses_sequence_parallel_size
    gpus = _gpus(config)
    ranks = gpus // split
    if gpus % split or data.train_batch_size % ranks:
        raise UsageError(
            f"data.train_batch_size={data.train_batch_size} can't be divided among {_place(config)} with "
            f"engine.ulysses_sequence_parallel_size={split}; verl would drop the rest of each batch"
        )
    share = data.train_batch_size // ranks
    if not data.use_dynamic_bsz and share % data.micro_batch_size_per_gpu:
        raise UsageError(
            f"data.train_batch_size={data.train_batch_size} on {_place(config)}: each GPU's {share} rows are not a "
            f"multiple of data.micro_batch_size_per_gpu={data.micro_batch_size_per_gpu}"
        )
    if data.use_dynamic_bsz and data.max_token_len_per_gpu * split < data.max_length:
        raise UsageError(
            f"data.max_token_len_per_gpu={data.max_token_len_per_gpu} has no room for a row of data.max_length="
            f"{data.max_length} tokens"
        )


def check_validation(config: Any) -> None:
    """Raise UsageError for an SFT that is to be validated without data, which verl finds out at that step."""
    freq = config.trainer.test_freq
    if not config.data.val_files and freq != -1:
        raise UsageError(f"trainer.test_freq={freq} without data.val_files: give a file, or set trainer.test_freq=-1")


def _adapters(model: Any) -> bool:
    return bool(model.lora_rank or model.lora.rank or model.lora_adapter_path)


def _gpus(config: Any) -> int:
    return config.trainer.nnodes * config.trainer.n_gpus_per_node


def _place(config: Any) -> str:
    trainer = config.trainer
    return f"trainer.nnodes={trainer.nnodes} x trainer.n_gpus_per_node={trainer.n_gpus_per_node} GPUs"
