"""verl's GRPO trainer on a machine without an accelerator.

Stock verl 0.9.1 knows NVIDIA and Ascend devices only. Two entry points close the gap and do nothing unless
``VERL_PLATFORM=cpu``:

* ``verl.plugins`` -> :mod:`recipe.cxr_grpo.cpu.plugin`, loaded at ``import verl`` in every process;
* ``vllm.general_plugins`` -> :func:`recipe.cxr_grpo.cpu.vllm_plugin.register`, loaded by vLLM in each of its own.

This package imports neither torch nor verl until one of them asks for it.
"""

import os


def enabled() -> bool:
    """True when this process was told to train on the CPU (``VERL_PLATFORM=cpu``, as verl itself reads it)."""
    return os.environ.get("VERL_PLATFORM", "").strip().lower() == "cpu"
