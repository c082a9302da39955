"""Entry point of the group ``verl.plugins``: importing this module activates the CPU platform."""

import importlib

import wrapt

from recipe.cxr_grpo.cpu import enabled
from recipe.cxr_grpo.plugin import change_after_import

HF_ROLLOUT = "recipe.cxr_grpo.cpu.hf_rollout"

if enabled():
    from recipe.cxr_grpo.cpu import platform, shims, vision

    shims.apply()
    platform.register()
    # verl's servers and its trainer learn of actor_rollout_ref.rollout.name=hf.
    wrapt.register_post_import_hook(
        lambda module: module.RolloutReplicaRegistry.register(
            "hf", lambda: importlib.import_module(HF_ROLLOUT).HFReplica
        ),
        "verl.workers.rollout.replica",
    )
    # verl 0.9.1 workers/rollout/base.py:89 is a table without a public way to add a row.
    row = {("hf", "async"): f"{HF_ROLLOUT}.HFAdapter"}
    change_after_import("verl.workers.rollout.base", "_ROLLOUT_REGISTRY", lambda table: table | row)
    vision.register()
