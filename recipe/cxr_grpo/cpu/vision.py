"""Qwen3-VL's vision model runs once for all rollouts with the same image; on a CPU it takes half of an update.

The gradient is the same but for rounding: an image's gradient is the sum over the rollouts that show it.
"""

import functools
from collections.abc import Callable
from typing import Any

from recipe.cxr_grpo.plugin.after import change_after_import


def register() -> None:
    """Have Qwen3-VL's vision model compute each image of a batch once, and embed its patches by a matrix product."""
    module = "transformers.models.qwen3_vl.modeling_qwen3_vl"
    change_after_import(module, "Qwen3VLVisionModel.forward", once_per_image)
    change_after_import(module, "Qwen3VLVisionPatchEmbed.forward", by_matrix_product)


def once_per_image(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The `forward` of a Qwen3VLVisionModel, computed for the distinct images of a batch and copied for the others.

    Takes patches, of shape (patches of all images, numbers of a patch), and grids, of shape (images, 3). With further
    arguments, which may be made for all images, the call is unchanged.
    """

    @functools.wraps(forward)
    def wrapper(self: Any, hidden_states: Any, grid_thw: Any, **kwargs: Any) -> Any:
        import torch

        sizes = grid_thw.prod(dim=1).tolist()
        images = hidden_states.split(sizes)
        equals = first_equals(images, grid_thw.tolist())
        distinct = sorted(set(equals))
        if kwargs or len(distinct) == len(equals):
            return forward(self, hidden_states, grid_thw, **kwargs)
        output = forward(self, torch.cat([images[i] for i in distinct]), grid_thw[distinct])
        patches = sum(sizes[i] for i in distinct)

        def copied(rows: Any) -> Any:
            """The rows of all images from those of the distinct ones; a row may stand for several patches."""
            each = patches // len(rows)
            of_image = dict(zip(distinct, rows.split([sizes[i] // each for i in distinct]), strict=True))
            return torch.cat([of_image[i] for i in equals])

        for name, value in output.items():
            output[name] = copied(value) if torch.is_tensor(value) else [copied(rows) for rows in value]
        return output

    return wrapper


def first_equals(images: Any, grids: list[list[int]]) -> list[int]:
    """For each image, as patches of shape (patches, numbers of a patch) and a grid, the index of its first equal."""
    seen: dict[tuple[tuple[int, ...], float], list[int]] = {}
    equals = []
    for i, (image, grid) in enumerate(zip(images, grids, strict=True)):
        candidates = seen.setdefault((tuple(grid), float(image.sum())), [])
        first = next((j for j in candidates if images[j].equal(image)), i)
        if first == i:
            candidates.append(i)
        equals.append(first)
    return equals


def by_matrix_product(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The `forward` of a Qwen3VLVisionPatchEmbed as a matrix product, several times as fast on a CPU.

    The strides of its convolution don't overlap. If another module has its place, such as an adapter around it, the
    call is unchanged.
    """

    @functools.wraps(forward)
    def wrapper(self: Any, hidden_states: Any) -> Any:
        from torch import nn

        if type(self.proj) is not nn.Conv3d or self.proj.stride != self.proj.kernel_size:
            return forward(self, hidden_states)
        weight = self.proj.weight.flatten(1)
        patches = hidden_states.view(-1, weight.shape[1]).to(weight.dtype)
        return nn.functional.linear(patches, weight, self.proj.bias)

    return wrapper
