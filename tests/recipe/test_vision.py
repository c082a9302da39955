import copy

import pytest

pytest.importorskip("transformers")

import torch

from recipe.cxr_grpo.cpu import shims, vision

GRIDS = {"a": [1, 4, 4], "b": [1, 4, 4], "film": [2, 2, 6]}


@pytest.fixture(scope="module")
def stock():
    """transformers' own vision model, with random weights."""
    shims.torchvision_operators()
    from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLVisionConfig
    from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel

    torch.manual_seed(0)
    return Qwen3VLVisionModel(
        Qwen3VLVisionConfig(
            depth=2, hidden_size=64, intermediate_size=64, num_heads=2, patch_size=4, spatial_merge_size=2,
            temporal_patch_size=2, out_hidden_size=32, num_position_embeddings=64, deepstack_visual_indexes=[0],
        )
    )  # fmt: skip


@pytest.fixture
def ours(stock, monkeypatch):
    """The same weights, run by what the CPU platform puts in the place of two methods; `seen` counts its patches."""
    model = copy.deepcopy(stock)
    names = {"forward": vision.seeing_once(type(stock).forward)}
    model.__class__ = type("Ours", (type(stock),), names)
    monkeypatch.setattr(model.patch_embed, "forward", lambda states: vision.embedded(model.patch_embed, states))
    seen = []
    model.blocks[0].register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    return model, seen


def batch(names):
    torch.manual_seed(1)
    patches = {name: torch.randn(t * h * w, 3 * 2 * 4 * 4) for name, (t, h, w) in GRIDS.items()}
    return torch.cat([patches[name] for name in names]), torch.tensor([GRIDS[name] for name in names])


@pytest.mark.parametrize(
    ("names", "patches"),
    [(["a", "b"], 32), (["a", "a"], 16), (["film", "a", "b", "a", "film", "a", "a"], 56), (["film"], 24)],
)
def test_what_is_seen_and_its_gradient_are_those_of_the_stock_model(stock, ours, names, patches):
    model, seen = ours
    results = []
    for each in (stock, model):
        each.zero_grad()
        found = each(*batch(names))
        rows = [found.last_hidden_state, found.pooler_output, *found.deepstack_features]
        torch.manual_seed(2)  # another weight for each row: of two rollouts that show a picture, each has its own say
        sum((part * torch.randn_like(part)).sum() for part in rows).backward()
        results.append(rows + [parameter.grad for parameter in each.parameters()])
    assert seen == [patches]
    assert len(results[0]) == len(results[1]) > 20
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_pictures_with_equal_sums_or_equal_patches_in_another_grid_are_not_the_same():
    one = torch.tensor([[1.0, 2.0], [3.0, 4.0], [0.0, 0.0], [5.0, 5.0]])
    grids = [[1, 2, 2], [1, 2, 2], [1, 1, 4], [1, 2, 2]]
    assert vision.distinct([one, one.flip(0), one, one.clone()], grids) == [0, 1, 2, 0]


def test_called_with_more_it_computes_all(ours):
    model, seen = ours
    states, grids = batch(["a", "a"])
    found = model(states, grids, output_hidden_states=True)
    assert seen == [32] and len(found.last_hidden_state) == 32
