"""Each image is read, prepared and seen by the model once for all rollouts of a prompt; on a CPU that takes long.

Gradients are the same but for rounding: an image's is the sum over the rollouts that show it.
"""

import functools
import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from recipe.cxr_grpo.plugin import change_after_import

_MOST = 64  # results of each kind: more than a batch has prompts


def register() -> None:
    """Memoize what is done to an image and its question, and change Qwen3-VL's vision model for a CPU."""
    models = "transformers.models"
    for module, name, change in (
        ("qwen_vl_utils.vision_process", "fetch_image", memoized),
        (f"{models}.qwen2_vl.image_processing_qwen2_vl", "Qwen2VLImageProcessor.preprocess", memoized),
        (f"{models}.qwen3_vl.processing_qwen3_vl", "Qwen3VLProcessor.__call__", memoized),
        (f"{models}.qwen3_vl.modeling_qwen3_vl", "Qwen3VLVisionModel.forward", once_per_image),
        (f"{models}.qwen3_vl.modeling_qwen3_vl", "Qwen3VLVisionPatchEmbed.forward", by_matrix_product),
    ):
        change_after_import(module, name, change)


def memoized(function: Callable[..., Any], most: int = _MOST) -> Callable[..., Any]:
    """The function with a memory of its last ``most`` results; threads with equal arguments wait for the first.

    Arguments are compared by value: numbers, texts, bytes, gray and RGB images of PIL, and lists and dictionaries of
    those; named files (file://) by time and size, too; processors by identity. Other arguments bypass the memory.
    """
    results: OrderedDict[str, Future[Any]] = OrderedDict()
    lock = threading.Lock()

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            key = hashlib.sha256(_value_key((args, kwargs)).encode()).hexdigest()
        except (TypeError, OSError):
            return function(*args, **kwargs)
        with lock:
            first = key not in results
            future = results.setdefault(key, Future())
            if len(results) > most:
                results.popitem(last=False)
        if first:
            try:
                future.set_result(function(*args, **kwargs))
            except BaseException as error:
                with lock:
                    results.pop(key, None)
                future.set_exception(error)
        result = future.result()
        # Callers may remove entries from their result, but do not change its tensors in place.
        return type(result)(dict(result)) if hasattr(result, "keys") else result.copy()

    wrapper.results = results  # type: ignore[attr-defined]
    return wrapper


def _value_key(value: Any) -> str:
    """A text that differs for different values; TypeError for other types, OSError for a missing file."""
    from PIL.Image import Image
    from transformers import BaseImageProcessor, ProcessorMixin

    if isinstance(value, Image) and value.mode in ("L", "RGB"):
        return f"{value.mode}{value.size}{hashlib.sha256(value.tobytes()).hexdigest()}"
    if isinstance(value, str) and value.startswith("file://"):
        file = os.stat(value.removeprefix("file://"))
        return f"{value!r} {file.st_mtime_ns} {file.st_size}"
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if isinstance(value, str | bool | int | float | None):
        return repr(value)
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_value_key, value)) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key!r}:{_value_key(item)}" for key, item in sorted(value.items())) + "}"
    if isinstance(value, BaseImageProcessor | ProcessorMixin):
        return f"@{id(value)}"
    raise TypeError(f"{type(value)}")


def once_per_image(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The `forward` of a Qwen3VLVisionModel, computed for the distinct images of a batch and copied for the others.

    Takes patches (patches of all images, numbers of a patch) and grids (images, 3); unchanged with further arguments.
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
        candidates.append(i)
        equals.append(next((j for j in candidates if images[j].equal(image)), i))
    return equals


def by_matrix_product(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The `forward` of a Qwen3VLVisionPatchEmbed as a matrix product, faster on a CPU; unchanged with an adapter."""

    @functools.wraps(forward)
    def wrapper(self: Any, hidden_states: Any) -> Any:
        from torch import nn

        # The convolution's strides don't overlap.
        if type(self.proj) is not nn.Conv3d or self.proj.stride != self.proj.kernel_size:
            return forward(self, hidden_states)
        weight = self.proj.weight.flatten(1)
        patches = hidden_states.view(-1, weight.shape[1]).to(weight.dtype)
        return nn.functional.linear(patches, weight, self.proj.bias)

    return wrapper
