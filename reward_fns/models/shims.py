"""What the pinned versions need before transformers' models can be imported."""

import contextlib
import importlib.util
from pathlib import Path
from typing import Any

_operators: Any = None  # kept, for operators are unregistered when their library is collected


def torchvision_operators() -> bool:
    """Declare what transformers needs of a torchvision without its compiled part; returns whether that was needed."""
    import torch
    from torch import library as operators

    # torchvision 0.28.0 _meta_registrations.py:163 and :177 name these operators although the PyPI wheel's _C.so,
    # a CUDA build, can't be loaded next to a CPU torch; the build from PyTorch's CPU wheel index needs no shim.
    global _operators
    spec = importlib.util.find_spec("torchvision")  # where the CPU platform's sitecustomize waits for it, calls this
    if _operators is not None:
        return True
    if spec is None or spec.origin is None:
        return False
    with contextlib.suppress(OSError):
        for library in Path(spec.origin).parent.glob("_C*.so"):
            torch.ops.load_library(str(library))
            return False
    _operators = operators.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        _operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return True
