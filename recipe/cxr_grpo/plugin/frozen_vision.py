"""Keep a model's vision tower, its projection into the language model included, as it is while the rest is trained.

verl 0.9.1 ignores its own ``actor.freeze_vision_tower``. It imports the module that ``model.external_lib`` names in
every process that builds a model: ``actor_rollout_ref.model.external_lib=recipe.cxr_grpo.plugin.frozen_vision`` for
GRPO, ``model.external_lib=…`` for SFT.
"""

import functools
from collections.abc import Callable
from typing import Any

from recipe.cxr_grpo.plugin import change_after_import
from reward_fns.errors import UsageError

TOWER = "visual"  # its name in every Qwen-VL model


def frozen(build: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """``build``, verl's method that loads an engine's model, with a tower that gets no gradient.

    UsageError: the model has no tower, or FSDP1, which puts frozen and trained weights into one tensor.
    """

    @functools.wraps(build)
    def built(engine: Any) -> Any:
        if engine.engine_config.strategy == "fsdp":
            raise UsageError("a frozen vision tower needs FSDP2: set strategy=fsdp2 of the actor, or of SFT's engine")
        model = build(engine)
        towers = [module for name, module in model.named_modules() if name.rpartition(".")[2] == TOWER]
        if not towers:
            raise UsageError(f"{type(model).__name__} has no module {TOWER!r} to freeze: leave out model.external_lib")
        for tower in towers:
            tower.requires_grad_(False)
        return model

    return built


change_after_import("verl.workers.engine.fsdp.transformer_impl", "FSDPEngine._build_module", frozen)
