"""verl's GRPO trainer on a machine without an accelerator.

Two entry points do nothing unless ``VERL_PLATFORM=cpu``: ``verl.plugins`` loads :mod:`.plugin` at ``import verl`` in
every process, ``vllm.general_plugins`` calls :func:`.vllm_plugin.register` in each of vLLM's own. This imports neither.
"""

import os


def enabled() -> bool:
    """Whether this process trains on the CPU: ``VERL_PLATFORM=cpu``, as verl itself reads it."""
    return os.environ.get("VERL_PLATFORM", "").strip().lower() == "cpu"
