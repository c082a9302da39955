"""Entry point of the group ``verl.plugins``: makes :mod:`.trainers` known to verl, on any machine."""

from recipe.cxr_grpo.plugin.after import after


def _register() -> None:
    import recipe.cxr_grpo.plugin.trainers  # noqa: F401


after("verl.trainer.ppo.v1", _register)
