"""Entry point of the group ``verl.plugins``: registers :mod:`.trainers` with verl, on any machine."""

import importlib

from recipe.cxr_grpo.plugin.after import after_import

after_import("verl.trainer.ppo.v1", lambda: importlib.import_module("recipe.cxr_grpo.plugin.trainers"))
