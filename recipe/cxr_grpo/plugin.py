"""Entry point of the group ``verl.plugins``: makes :mod:`recipe.cxr_grpo.trainers` known to verl, on any machine."""

from recipe.cxr_grpo.after import after


def _register() -> None:
    import recipe.cxr_grpo.trainers  # noqa: F401


after("verl.trainer.ppo.v1", _register)
