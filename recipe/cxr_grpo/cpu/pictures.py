"""All rollouts of a prompt look at one picture; on a CPU, preparing it anew for each takes much of their time."""

from __future__ import annotations

import functools
import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from recipe.cxr_grpo.plugin.after import after_import

_KEPT = 64  # of each kind: more than a batch of prompts has


def register() -> None:
    """Have reading a picture, preparing it, and preparing it with its question give again what was just made of it."""

    def reading() -> None:
        from qwen_vl_utils import vision_process

        vision_process.fetch_image = remembering(vision_process.fetch_image)

    def preparing() -> None:
        from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor as Processor

        Processor.preprocess = remembering(Processor.preprocess)  # type: ignore[method-assign]

    def asking() -> None:
        from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor as Processor

        Processor.__call__ = remembering(Processor.__call__)  # type: ignore[method-assign]

    after_import("qwen_vl_utils.vision_process", reading)
    after_import("transformers.models.qwen2_vl.image_processing_qwen2_vl", preparing)
    after_import("transformers.models.qwen3_vl.processing_qwen3_vl", asking)


def remembering(function: Callable[..., Any], most: int = _KEPT) -> Callable[..., Any]:
    """The function, which keeps its last results by its arguments; threads that ask for one at once wait for the first.

    Arguments are compared by value: numbers, texts, bytes, grey and RGB images of PIL, and lists and dictionaries of
    those; files that are named (file://) by time and size, too. With anything else the function is called as before.
    Processors count by identity.
    """
    kept: OrderedDict[str, Future[Any]] = OrderedDict()
    lock = threading.Lock()

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            key = hashlib.sha256(_told((args, kwargs)).encode()).hexdigest()
        except (TypeError, OSError):
            return function(*args, **kwargs)
        with lock:
            result = kept.get(key)
            first = result is None
            if result is None:
                result = kept[key] = Future()
                while len(kept) > most:
                    kept.popitem(last=False)
        if first:
            try:
                result.set_result(function(*args, **kwargs))
            except BaseException as error:
                with lock:
                    kept.pop(key, None)
                result.set_exception(error)
        found = result.result()
        # Callers may take entries out of what they get, but work on the tensors out of place.
        return type(found)(dict(found)) if hasattr(found, "keys") else found.copy()

    wrapper.kept = kept  # type: ignore[attr-defined]
    return wrapper


def _told(value: Any) -> str:
    """What tells a value from others.

    Raises:
        TypeError: it is not known how.
        OSError: a file is not there.
    """
    from PIL.Image import Image
    from transformers import BaseImageProcessor, ProcessorMixin

    if isinstance(value, Image) and value.mode in ("L", "RGB"):
        return f"{value.mode}{value.size}{hashlib.sha256(value.tobytes()).hexdigest()}"
    if isinstance(value, str):
        if not value.startswith("file://"):
            return repr(value)
        file = os.stat(value.removeprefix("file://"))
        return f"{value!r} {file.st_mtime_ns} {file.st_size}"
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return "[" + ",".join(_told(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key!r}:{_told(item)}" for key, item in sorted(value.items())) + "}"
    if isinstance(value, BaseImageProcessor | ProcessorMixin):
        return f"@{id(value)}"
    raise TypeError(f"{type(value)}")
