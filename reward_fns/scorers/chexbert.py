"""CheXbert's labels and embedding of reports, read from its published weights.

CheXbert (arXiv 2004.09167) is a BERT-base with one linear head for each of 14 observations on its [CLS] state. This
reads the file that the `f1chexbert` package reads, and labels as that package does (parity is tested), in batches.
"""

from __future__ import annotations

import importlib.metadata
import pickle
import threading
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from reward_fns.errors import UsageError
from reward_fns.scorers.encoder import Encoder, encodable, load
from reward_fns.scorers.weights import HubFile, HubFolder, fetch, fetch_folder, pinned_model

Backend = Literal["builtin", "reference"]

OBSERVATIONS = (
    "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation", "Pneumonia",
    "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices", "No Finding",
)  # fmt: skip
BLANK, POSITIVE, NEGATIVE, UNCERTAIN = range(4)
"""Classes of an observation; "No Finding" has only the first two."""

CHECKPOINT = HubFile("StanfordAIMI/RRG_scorers", "chexbert.pth")
BASE = HubFolder("google-bert/bert-base-uncased")
"""Where CheXbert's configuration and vocabulary come from; its weights are all in the checkpoint."""


@dataclass(frozen=True, slots=True, eq=False)
class Findings:
    """What CheXbert says about one report.

    Attributes:
        classes: of the `OBSERVATIONS`, in their order.
        logits: per observation, of its 4 (the last: 2) classes.
        embedding: the [CLS] state, float32, of shape (768,).
    """

    classes: tuple[int, ...]
    logits: tuple[tuple[float, ...], ...]
    embedding: np.ndarray


def classify(
    texts: Sequence[str],
    *,
    checkpoint: HubFile = CHECKPOINT,
    base: HubFolder = BASE,
    backend: Backend = "builtin",
) -> list[Findings]:
    """Label and embed reports; each different text goes through the model once.

    White space is squeezed, and a report is cut at 512 tokens, as in f1chexbert 0.0.2. Cost: a pass of a
    BERT-base per distinct text, in batches.

    Args:
        texts: the reports; an empty one is a report that mentions nothing.
        checkpoint: the published chexbert.pth, or another of its format.
        base: configuration and tokenizer that it was trained with.
        backend: "builtin", or "reference" for the f1chexbert package itself, one report at a time.

    Raises:
        UsageError: a file is not there, or is something else, or a package is missing.
    """
    build = {"builtin": _builtin, "reference": _reference}[backend]
    read = pinned_model(("chexbert", backend, checkpoint, base), lambda: build(checkpoint, base))
    squeezed = [" ".join(encodable(text).split()) for text in texts]
    different = list(dict.fromkeys(squeezed))
    found = dict(zip(different, read(different), strict=True))
    return [found[text] for text in squeezed]


def sources(repo: str, revision: str, base: str) -> tuple[HubFile, HubFolder]:
    """The files that `classify` reads, for hub repositories or local folders."""
    return HubFile(repo, CHECKPOINT.name, revision), HubFolder(base)


def cosine(a: ArrayLike, b: ArrayLike) -> float:
    """Cosine of two vectors, -1 to 1; 0 if either has no length.

    >>> cosine([3.0, 4.0], [3.0, 4.0]), cosine([3.0, 4.0], [0.0, 0.0])
    (1.0, 0.0)
    """
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    lengths = np.linalg.norm(x) * np.linalg.norm(y)
    return float(np.clip(x @ y / lengths, -1.0, 1.0)) if lengths else 0.0


Reader = Callable[[Sequence[str]], list[Findings]]


def _builtin(checkpoint: HubFile, base: HubFolder) -> Reader:
    encoder, heads = _load(fetch(checkpoint), fetch_folder(base))

    def read(texts: Sequence[str]) -> list[Findings]:
        found: dict[int, Findings] = {}
        for batch in encoder(texts):
            states = batch.states[:, 0]
            logits = [(states @ weight.T + bias).tolist() for weight, bias in heads]
            for row, i in enumerate(batch.indices):
                found[i] = _findings([head[row] for head in logits], states[row])
        return [found[i] for i in range(len(texts))]

    return read


def _findings(logits: Sequence[Sequence[float]], state: Any) -> Findings:
    classes = tuple(int(np.argmax(values)) for values in logits)
    return Findings(classes, tuple(map(tuple, logits)), state.cpu().numpy())


def _reference(checkpoint: HubFile, base: HubFolder) -> Reader:
    import torch

    try:
        version = importlib.metadata.version("transformers")
        from f1chexbert import f1chexbert as package
    except (importlib.metadata.PackageNotFoundError, ModuleNotFoundError) as error:
        raise UsageError(f"backend reference needs the f1chexbert package ({error}): {_ENVIRONMENT}") from error
    if int(version.partition(".")[0]) > 4:
        raise UsageError(f"the f1chexbert package does not run with transformers {version}: {_ENVIRONMENT}")
    if base != BASE:
        raise UsageError("backend reference takes bert-base-uncased from the hub or its cache; leave out option base")
    package.CACHE_DIR = str(fetch(checkpoint).parent)  # it looks for chexbert.pth there
    labeler = package.F1CheXbert()
    seen: dict[str, Any] = {}
    labeler.model.register_forward_hook(lambda *call: seen.update(logits=[head[0].tolist() for head in call[-1]]))
    labeler.model.bert.register_forward_hook(lambda *call: seen.update(state=call[-1][0][0, 0]))
    lock = threading.Lock()

    def read(texts: Sequence[str]) -> list[Findings]:
        found = []
        with lock, torch.inference_mode():
            for text in texts:
                labeler.get_label(text)
                found.append(_findings(seen["logits"], seen["state"]))
        return found

    return read


_ENVIRONMENT = "give it a virtual environment of its own with pip install 'cxr-grpo[reference]'"


def _load(checkpoint: Path, base: Path) -> tuple[Encoder, list[tuple[Any, Any]]]:
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    try:
        # The optimizer's state is two thirds of the published file: mapped, it is never read.
        mapped = zipfile.is_zipfile(checkpoint)
        content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=mapped)
        weights = {key.removeprefix("module."): value for key, value in content["model_state_dict"].items()}
        heads = [tuple(weights[f"linear_heads.{i}.{part}"] for part in ("weight", "bias")) for i in range(14)]
    except (OSError, EOFError, pickle.UnpicklingError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{checkpoint} is no CheXbert checkpoint: {error!r}") from error
    config = BertConfig.from_pretrained(base)
    shapes = [(4, config.hidden_size)] * 13 + [(2, config.hidden_size)]
    if [tuple(weight.shape) for weight, _ in heads] != shapes:
        raise UsageError(f"{checkpoint} is no CheXbert checkpoint: its 14 heads must have the shapes {shapes}")
    # CheXbert has no use for the pooler; old versions of transformers saved position ids, a constant.
    unused = ("bert.pooler.", "bert.embeddings.position_ids", "linear_heads.")
    bert = {key.removeprefix("bert."): value for key, value in weights.items() if not key.startswith(unused)}
    model = load(
        BertModel.from_pretrained, checkpoint, f"CheXbert, a BERT as {base} configures it", strict=True,
        pretrained_model_name_or_path=None, config=config, state_dict=bert, add_pooling_layer=False,
    )  # fmt: skip
    encoder = Encoder(model, AutoTokenizer.from_pretrained(base))
    return encoder, [(weight.float().to(encoder.device), bias.float().to(encoder.device)) for weight, bias in heads]
