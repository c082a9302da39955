"""verl's GRPO trainer on a machine without an accelerator.

Stock verl 0.9.1 supports only NVIDIA and Ascend devices. Two entry points add the CPU and do nothing unless
``VERL_PLATFORM=cpu``:

* ``verl.plugins`` -> :mod:`recipe.cxr_grpo.cpu.plugin`, loaded at ``import verl`` in every process;
* ``vllm.general_plugins`` -> :func:`recipe.cxr_grpo.cpu.vllm_plugin.register`, called by vLLM in each of its own.

The package itself imports neither torch nor verl.
"""

import os


def enabled() -> bool:
    """Whether this process trains on the CPU: ``VERL_PLATFORM=cpu``, as verl itself reads it."""
    return os.environ.get("VERL_PLATFORM", "").strip().lower() == "cpu"
