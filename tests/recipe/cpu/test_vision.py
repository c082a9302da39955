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
def ours(stock):
    """The same weights, run by what the CPU platform puts in the place of two methods; `seen` counts its patches."""
    model = copy.deepcopy(stock)
    for part, change in ((model, vision.once_per_image), (model.patch_embed, vision.by_matrix_product)):
        kind = type(part)
        part.__class__ = type("Ours", (kind,), {"forward": change(kind.forward)})
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
    assert vision.first_equals([one, one.flip(0), one, one.clone()], grids) == [0, 1, 2, 0]


def test_called_with_more_it_computes_all(ours):
    model, seen = ours
    states, grids = batch(["a", "a"])
    found = model(states, grids, output_hidden_states=True)
    assert seen == [32] and len(found.last_hidden_state) == 32


def test_what_is_in_the_convolution_s_place_has_its_say(ours):
    class Doubled(torch.nn.Conv3d):
        def forward(self, patches):
            return 2.0 * super().forward(patches)

    model, _ = ours
    states, _ = batch(["a"])
    bare = model.patch_embed(states)
    model.patch_embed.proj.__class__ = Doubled  # as an adapter: the same weights, and more
    torch.testing.assert_close(model.patch_embed(states), 2.0 * bare)


def test_verl_calls_the_vision_model_in_the_way_that_sees_once(ours):
    """What else verl passed would switch it off without a word."""
    from types import SimpleNamespace

    qwen3_vl = pytest.importorskip("verl.models.transformers.qwen3_vl")
    visual, seen = ours
    embedding = torch.nn.Embedding(9, 32)
    model = SimpleNamespace(
        visual=visual, config=SimpleNamespace(image_token_id=7), get_input_embeddings=lambda: embedding
    )
    states, grids = batch(["a", "a"])
    ids = torch.tensor([[1, 7, 7, 7, 7], [2, 7, 7, 7, 7]])
    found = qwen3_vl._get_input_embeds(model, ids, None, pixel_values=states, image_grid_thw=grids)["inputs_embeds"]
    assert seen == [16] and torch.equal(found[0, 1:], found[1, 1:])
