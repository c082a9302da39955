"""A run's config, composed and checked before anything starts."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from recipe.cxr_grpo import cpu
from recipe.cxr_grpo.plugin.reward import check_reward
from recipe.cxr_grpo.running.environment import check_disk, check_platform
from reward_fns.errors import UsageError

CONFIG_MODULE = "recipe.cxr_grpo.config"
MODEL_KEYS = {"grpo": "actor_rollout_ref.model.path", "sft": "model.path"}


def compose(config_name: str, overrides: Sequence[str]) -> Any:
    """The resolved Hydra config ``config_name`` of this recipe with ``overrides``, as verl will see it.

    Raises:
        UsageError: an override is malformed or names an unknown key.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_module
    from hydra.errors import HydraException

    try:
        with initialize_config_module(CONFIG_MODULE, version_base=None):
            return hydra_compose(config_name, overrides=list(overrides))
    except HydraException as error:
        raise UsageError(
            f"config {config_name}: {error}. Overrides are Hydra's: key=value, or +key=value to add a key."
        ) from error


def check_run(kind: str, config: Any, out: Path) -> None:
    """Refuse a run of ``kind`` (grpo or sft) that would fail minutes after its start.

    Raises:
        UsageError: a parquet file or the model folder is missing, the reward spec is wrong, the disk is full, or the
            CPU platform can't be loaded.
    """
    check_inputs(config, ("data.train_files", "data.val_files", MODEL_KEYS[kind]))
    if kind == "grpo":
        check_reward(config)
        check_batches(config)
    check_disk(out)
    if cpu.enabled():
        check_platform()


def check_inputs(config: Any, keys: Iterable[str]) -> None:
    """Refuse missing parquet files and a missing model folder; ``keys`` are the keys of the config to check."""
    from omegaconf import OmegaConf

    for key in keys:
        value = OmegaConf.select(config, key)
        if key in MODEL_KEYS.values():
            path = Path(str(value)).expanduser()
            # verl resolves a hub id, "owner/name".
            local = str(value).startswith((".", "/", "~")) or len(path.parts) != 2 or path.exists()
            if local and not (path / "config.json").is_file():
                raise UsageError(f"{key}: no config.json in {value}. Give a folder in Hugging Face format or a hub id.")
            continue
        for name in [value] if isinstance(value, str) else value or []:
            if not Path(name).is_file():
                raise UsageError(f"{key}: no file {name}. Make it with `python -m data_prep <set> --out DIR`.")


def check_batches(config: Any) -> None:
    """Refuse batch sizes that verl would refuse at its first update, minutes into the run."""
    settings = config.actor_rollout_ref
    actor, ref, n = settings.actor, settings.ref, settings.rollout.n
    batch, mini = config.data.train_batch_size, actor.ppo_mini_batch_size
    if batch % mini:
        raise UsageError(f"data.train_batch_size={batch} is not a multiple of ppo_mini_batch_size={mini} (prompts)")
    for prompts_key, prompts, answers_key, answers, unused in (
        ("actor.ppo_mini_batch_size", mini, "actor.ppo_micro_batch_size_per_gpu", actor.ppo_micro_batch_size_per_gpu,
         actor.use_dynamic_bsz),
        ("data.train_batch_size", batch, "ref.log_prob_micro_batch_size_per_gpu", ref.log_prob_micro_batch_size_per_gpu,
         ref.log_prob_use_dynamic_bsz or not actor.use_kl_loss),
    ):  # fmt: skip
        if answers and not unused and prompts * n % answers:
            raise UsageError(
                f"{prompts_key}={prompts} prompts x rollout.n={n} answers is not a multiple of {answers_key}={answers} "
                "(answers); keys actor, ref and rollout are in actor_rollout_ref"
            )
