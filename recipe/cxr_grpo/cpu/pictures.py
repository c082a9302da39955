"""Images are prepared once for all rollouts of a prompt; on a CPU, preparing them anew takes much of the time."""

import functools
import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from recipe.cxr_grpo.plugin.after import change_after_import

_MOST = 64  # results of each kind: more than a batch has prompts


def register() -> None:
    """Memoize reading an image, preparing it, and preparing it with its question."""
    change_after_import("qwen_vl_utils.vision_process", "fetch_image", memoized)
    change_after_import(
        "transformers.models.qwen2_vl.image_processing_qwen2_vl", "Qwen2VLImageProcessor.preprocess", memoized
    )
    change_after_import("transformers.models.qwen3_vl.processing_qwen3_vl", "Qwen3VLProcessor.__call__", memoized)


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
    if value is None or isinstance(value, str | bool | int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_value_key, value)) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key!r}:{_value_key(item)}" for key, item in sorted(value.items())) + "}"
    if isinstance(value, BaseImageProcessor | ProcessorMixin):
        return f"@{id(value)}"
    raise TypeError(f"{type(value)}")
