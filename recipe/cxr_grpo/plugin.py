"""Entry point of the group ``verl.plugins``: makes :mod:`recipe.cxr_grpo.trainers` known to verl, on any machine."""

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

TRAINERS = "verl.trainer.ppo.v1"


class AfterVerlsTrainers:
    """A finder that imports our trainers after verl's own, whenever something asks for those.

    ``import verl`` loads plug-ins in every process, and verl's trainers take seconds to import: only the process that
    runs one should pay for them.
    """

    @classmethod
    def find_spec(cls, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Stand aside for good once ``verl.trainer.ppo.v1`` is looked for, and add our import to it."""
        if name != TRAINERS:
            return None
        sys.meta_path.remove(cls)  # type: ignore[arg-type]
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            import recipe.cxr_grpo.trainers  # noqa: F401

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if TRAINERS not in sys.modules and AfterVerlsTrainers not in sys.meta_path:
    sys.meta_path.insert(0, AfterVerlsTrainers)  # type: ignore[arg-type]
