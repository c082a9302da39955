"""Entry point of the group ``verl.plugins``: registers :mod:`.trainers` with verl, on any machine."""

from recipe.cxr_grpo.plugin.after import after_import


def _register() -> None:
    import recipe.cxr_grpo.plugin.trainers  # noqa: F401


after_import("verl.trainer.ppo.v1", _register)
