"""Entry point of the group ``verl.plugins``: registers :mod:`.trainers` with verl, on any machine.

``import verl`` loads plug-ins in every process, and the modules that they change take seconds to import: changes follow
the import of a module, so that only a process that imports it anyway pays for it.
"""

import importlib
from collections.abc import Callable
from typing import Any

import wrapt


def change_after_import(module: str, name: str, change: Callable[[Any], Any]) -> None:
    """Replace ``name`` ("function" or "Class.method") of a module by ``change`` of it once the module is imported."""

    def replace(_: object) -> None:
        owner, attribute, original = wrapt.resolve_path(module, name)
        setattr(owner, attribute, change(original))

    wrapt.register_post_import_hook(replace, module)


wrapt.register_post_import_hook(
    lambda _: importlib.import_module("recipe.cxr_grpo.plugin.trainers"), "verl.trainer.ppo.v1"
)
