"""Run at the start of a CPU run's children if torchvision needs a shim: vLLM's import it before any plug-in."""

import importlib.machinery
import importlib.util
import os
import sys


class _BeforeTorchvision:
    """A finder that applies the shim when torchvision is first looked for, and finds nothing."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(cls)
            from recipe.cxr_grpo.cpu import shims

            shims.torchvision_operators()
        return None


if os.environ.get("VERL_PLATFORM", "").strip().lower() == "cpu":
    sys.meta_path.insert(0, _BeforeTorchvision)

# This file hides a sitecustomize of the environment: run that one too.
_elsewhere = [folder for folder in sys.path if os.path.realpath(folder) != os.path.dirname(os.path.realpath(__file__))]
_hidden = importlib.machinery.PathFinder.find_spec("sitecustomize", _elsewhere)
if _hidden is not None and _hidden.loader is not None:
    _hidden.loader.exec_module(importlib.util.module_from_spec(_hidden))
