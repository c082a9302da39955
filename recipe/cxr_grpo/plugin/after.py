"""Calls that follow the import of a module, so that only a process that imports it anyway pays for it.

``import verl`` loads plug-ins in every process, and the modules that they change take seconds to import.
"""

import functools
import importlib.util
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def after_import(name: str, call: Callable[[], object]) -> None:
    """Run ``call`` once the module ``name`` is imported; at once if it is already."""
    if name in sys.modules:
        call()
    else:
        sys.meta_path.insert(0, _ImportHook(name, call))  # type: ignore[arg-type]


def change_after_import(module: str, name: str, change: Callable[[Any], Any]) -> None:
    """Replace ``name`` ("function" or "Class.method") of a module by ``change`` of it once the module is imported."""

    def replace() -> None:
        *owners, attribute = name.split(".")
        owner = functools.reduce(getattr, owners, sys.modules[module])
        setattr(owner, attribute, change(getattr(owner, attribute)))

    after_import(module, replace)


class _ImportHook:
    """A finder that removes itself when its module is first looked for, and adds the call to its loader."""

    def __init__(self, name: str, call: Callable[[], object]) -> None:
        self.name, self.call = name, call

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != self.name:
            return None
        sys.meta_path.remove(self)  # type: ignore[arg-type]
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            load(module)
            self.call()

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
