"""Entry point of the group ``verl.plugins``: importing this module activates the CPU platform."""

from recipe.cxr_grpo.cpu import enabled
from recipe.cxr_grpo.plugin.after import after_import


def register_rollout() -> None:
    """Make ``actor_rollout_ref.rollout.name=hf`` known to verl. Imports nothing heavy."""

    def replica_class() -> type:
        from recipe.cxr_grpo.cpu.hf_replica import HFReplica

        return HFReplica

    def register_replica() -> None:
        from verl.workers.rollout.replica import RolloutReplicaRegistry

        RolloutReplicaRegistry.register("hf", replica_class)

    def register_adapter() -> None:
        from verl.workers.rollout import base

        # verl 0.9.1 workers/rollout/base.py:89 is a table without a public way to add a row.
        base._ROLLOUT_REGISTRY[("hf", "async")] = "recipe.cxr_grpo.cpu.hf_replica.HFAdapter"

    after_import("verl.workers.rollout.replica", register_replica)
    after_import("verl.workers.rollout.base", register_adapter)


if enabled():
    from recipe.cxr_grpo.cpu import pictures, platform, shims, vision

    shims.apply()
    platform.register()
    register_rollout()
    pictures.register()
    vision.register()
