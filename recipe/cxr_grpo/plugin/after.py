"""Do something right after a module has been imported, whenever that is.

``import verl`` loads plug-ins in every process, and what they have to do with verl's or transformers' modules takes
seconds to import: only a process that imports a module anyway should pay for it.
"""

import importlib.util
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def after(name: str, do: Callable[[], None]) -> None:
    """Call ``do`` once the module ``name`` is imported; now, if it is already."""
    if name in sys.modules:
        do()
    else:
        sys.meta_path.insert(0, _After(name, do))  # type: ignore[arg-type]


class _After:
    """A finder that stands aside for good once its module is looked for, and adds the call to it."""

    def __init__(self, name: str, do: Callable[[], None]) -> None:
        self.name, self.do = name, do

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != self.name:
            return None
        sys.meta_path.remove(self)  # type: ignore[arg-type]
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            self.do()

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
