"""All rollouts of a prompt show the model one picture; on a CPU, seeing it anew for each is half of an update.

The gradient stays what it was but for rounding: that of a picture is the sum over the rollouts that show it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from recipe.cxr_grpo.plugin.after import after_import


def register() -> None:
    """Have Qwen3-VL's vision model see each picture of a batch once, and embed its patches by a matrix product."""

    def seeing() -> None:
        from transformers.models.qwen3_vl import modeling_qwen3_vl as modeling

        for model, change in (
            (modeling.Qwen3VLVisionModel, seeing_once),
            (modeling.Qwen3VLVisionPatchEmbed, multiplied),
        ):
            model.forward = change(model.forward)  # type: ignore[method-assign]

    after_import("transformers.models.qwen3_vl.modeling_qwen3_vl", seeing)


def seeing_once(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The `forward` of a Qwen3VLVisionModel, which computes for the different pictures of a batch and copies the rest.

    Called with more than patches, of shape (patches of all pictures, numbers of a patch), and grids, of shape
    (pictures, 3), it is as before: the rest may be made for all pictures.
    """

    @functools.wraps(forward)
    def wrapper(self: Any, hidden_states: Any, grid_thw: Any, **kwargs: Any) -> Any:
        import torch

        sizes = grid_thw.prod(dim=1).tolist()
        pictures = hidden_states.split(sizes)
        of = distinct(pictures, grid_thw.tolist())
        first = sorted(set(of))
        if kwargs or len(first) == len(of):
            return forward(self, hidden_states, grid_thw, **kwargs)
        found = forward(self, torch.cat([pictures[i] for i in first]), grid_thw[first])
        patches = sum(sizes[i] for i in first)

        def copied(rows: Any) -> Any:
            """Rows for all pictures from those of the different ones, as many patches to a row as there are."""
            each = patches // len(rows)
            own = dict(zip(first, rows.split([sizes[i] // each for i in first]), strict=True))
            return torch.cat([own[i] for i in of])

        for name, value in found.items():
            found[name] = copied(value) if torch.is_tensor(value) else [copied(rows) for rows in value]
        return found

    return wrapper


def distinct(pictures: Any, grids: list[list[int]]) -> list[int]:
    """For each picture, as patches of shape (patches, numbers of a patch) and as its grid, the first that equals it.

    >>> import torch
    >>> a, b = torch.zeros(4, 2), torch.ones(4, 2)
    >>> distinct([a, b, a.clone()], [[1, 2, 2]] * 3)
    [0, 1, 0]
    """
    seen: dict[tuple[tuple[int, ...], float], list[int]] = {}
    of = []
    for i, (picture, grid) in enumerate(zip(pictures, grids, strict=True)):
        alike = seen.setdefault((tuple(grid), float(picture.sum())), [])
        same = next((j for j in alike if pictures[j].equal(picture)), i)
        if same == i:
            alike.append(i)
        of.append(same)
    return of


def multiplied(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The `forward` of a Qwen3VLVisionPatchEmbed; its strides do not overlap, so its convolution is a matrix product.

    On a CPU the convolution takes several times as long, forward and backward. Anything else in its place, such as an
    adapter around it, is called as before.
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
