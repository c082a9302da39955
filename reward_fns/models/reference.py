"""The packages that published these models: backend "reference" of some rewards, and the parity tests.

The packages break on the transformers that verl needs (5): they run in a virtual environment of their own, from which
`python -m reward_fns score` computes their values; a training run can't use them.
"""

import importlib
import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from reward_fns.engine.lane import Found, Reader
from reward_fns.errors import UsageError
from reward_fns.models.radgraph_facts import Annotation, Entity

_ENVIRONMENT = (
    "it needs a virtual environment of its own, with transformers 4: bash examples/install.sh .venv-reference "
    "reference, or pip install 'cxr-grpo[reference]'; score there with python -m reward_fns score"
)


def reader(read_all: Callable[[Sequence[str]], Sequence[Found]], size: Callable[[Found], int]) -> Reader[Found]:
    """A reader of a package that takes texts as they are."""
    return Reader(lambda texts: [(len(text), text) for text in texts], read_all, lambda _, found: found, size)


def radgraph(model: str, folder: Path) -> Callable[[Sequence[str]], list[Annotation]]:
    """The radgraph package's function from texts to annotations; the model is unpacked in a subfolder of its name."""
    package = _package("radgraph", "radgraph").RadGraph(model_type=model, model_cache_dir=str(folder))

    def entity_of(raw: Mapping[str, Any]) -> Entity:
        relations = tuple((kind, int(to) - 1) for kind, to in raw["relations"])  # the package counts from 1
        return Entity(raw["tokens"], raw["label"], raw["start_ix"], raw["end_ix"], relations)

    def annotate(texts: Sequence[str]) -> list[Annotation]:
        reports = package(list(texts))
        return [tuple(map(entity_of, reports[str(i)]["entities"].values())) for i in range(len(texts))]

    return annotate


def f1chexbert(folder: Path, **options: Any) -> Callable[[str], list[float]]:
    """The f1chexbert package's function from a text to the logits of all 14 heads, followed by the [CLS] state."""
    import torch

    package = _package("f1chexbert", "f1chexbert.f1chexbert")
    package.CACHE_DIR = str(folder)  # where it looks for chexbert.pth
    labeler = package.F1CheXbert(**options)
    seen: dict[str, Any] = {}
    labeler.model.register_forward_hook(lambda *call: seen.update(logits=[head[0].tolist() for head in call[-1]]))
    labeler.model.bert.register_forward_hook(lambda *call: seen.update(state=call[-1][0][0, 0].tolist()))

    def numbers_of(text: str) -> list[float]:
        with torch.inference_mode():
            labeler.get_label(text)
        return [*chain(*seen["logits"]), *seen["state"]]

    return numbers_of


def _package(name: str, module: str) -> Any:
    """The package; UsageError if it is not installed or does not run here."""
    try:
        version = importlib.metadata.version("transformers")
        if int(version.partition(".")[0]) > 4:
            raise UsageError(f"the {name} package does not run with transformers {version}: {_ENVIRONMENT}")
        return importlib.import_module(module)
    except (importlib.metadata.PackageNotFoundError, ModuleNotFoundError) as error:
        raise UsageError(f"backend reference needs the {name} package ({error}): {_ENVIRONMENT}") from error
