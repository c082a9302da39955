from types import SimpleNamespace

import pytest

pytest.importorskip("verl")

import torch

from recipe.cxr_grpo.plugin.frozen_vision import frozen
from reward_fns.errors import UsageError


def model(tower="visual"):
    """The modules of Qwen3VLForConditionalGeneration, by name."""
    inner = torch.nn.ModuleDict({tower: torch.nn.ModuleDict({"merger": torch.nn.Linear(2, 2)})})
    inner["language_model"] = torch.nn.Linear(2, 2)
    return torch.nn.ModuleDict({"model": inner, "lm_head": torch.nn.Linear(2, 2)})


def engine(strategy="fsdp2"):
    return SimpleNamespace(engine_config=SimpleNamespace(strategy=strategy))


def test_the_tower_with_its_projection_gets_no_gradient_and_the_rest_does():
    built = frozen(lambda engine: model())(engine())
    trained = {name for name, weights in built.named_parameters() if weights.requires_grad}
    assert trained == {f"{part}.{kind}" for part in ("model.language_model", "lm_head") for kind in ("weight", "bias")}


def test_what_can_not_be_frozen_is_refused():
    with pytest.raises(UsageError, match="no module 'visual'"):
        frozen(lambda engine: model("vision"))(engine())
    with pytest.raises(UsageError, match="needs FSDP2"):
        frozen(lambda engine: model())(engine("fsdp"))


def test_verl_s_engine_builds_its_model_so_once_the_module_is_imported():
    from verl.workers.engine.fsdp.transformer_impl import FSDPEngine

    assert FSDPEngine._build_module.__wrapped__.__qualname__ == "FSDPEngine._build_module"
