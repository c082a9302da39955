"""CheXbert's labels and embedding of reports, read from its published weights.

CheXbert (arXiv 2004.09167) is a BERT-base with one linear head for each of 14 observations on its [CLS] state. This
reads the file that the `f1chexbert` package reads, and labels as that package does (parity is tested), in batches.
"""

import pickle
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from reward_fns.engine.lane import Reader
from reward_fns.engine.lanes import read
from reward_fns.errors import UsageError
from reward_fns.models import reference
from reward_fns.models.encoder import Encoder, encodable, load
from reward_fns.models.weights import HubFile, HubFolder, fetch, fetch_folder
from reward_fns.settings import EngineOptions

Backend = Literal["builtin", "reference"]

OBSERVATIONS = (
    "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation", "Pneumonia",
    "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices", "No Finding",
)  # fmt: skip
BLANK, POSITIVE, NEGATIVE, UNCERTAIN = range(4)  # classes of an observation; "No Finding" has only the first two

CHECKPOINT = HubFile("StanfordAIMI/RRG_scorers", "chexbert.pth")
BASE = HubFolder("google-bert/bert-base-uncased")  # configuration and vocabulary; all weights are in the checkpoint


@dataclass(frozen=True, slots=True, eq=False)
class Findings:
    """Per observation its class and the logits of all 4 (the last: 2); the [CLS] state, float32, of shape (768,)."""

    classes: tuple[int, ...]
    logits: tuple[tuple[float, ...], ...]
    embedding: np.ndarray


def classify(
    texts: Sequence[str], checkpoint: HubFile = CHECKPOINT, base: HubFolder = BASE, *, backend: Backend = "builtin"
) -> list[Findings]:
    """Label and embed reports; each different text goes through the model once.

    White space is squeezed, and a report is cut at 512 tokens, as in f1chexbert 0.0.2; an empty one mentions nothing.
    Cost: a pass of a BERT-base per distinct text, in batches. Backend "reference" is the f1chexbert package itself, one
    report at a time, see `reward_fns.models.reference`. Raises UsageError for missing or foreign files or packages.
    """
    build = {"builtin": _builtin, "reference": _reference}[backend]
    squeezed = [" ".join(encodable(text).split()) for text in texts]
    return read(("chexbert", backend, checkpoint, base), partial(build, checkpoint, base), squeezed)


def sources(repo: str, revision: str, base: str) -> tuple[HubFile, HubFolder]:
    """The files that `classify` reads, from hub repositories or local folders."""
    return HubFile(repo, CHECKPOINT.name, revision), HubFolder(base)


def needs(options: Mapping[str, Any]) -> tuple[HubFile, HubFolder]:
    """`sources` of the options of a reward."""
    return sources(options["repo"], options["revision"], options["base"])


def cosine(a: ArrayLike, b: ArrayLike) -> float:
    """Cosine of two vectors, -1 to 1; 0 if the length of either is 0.

    >>> cosine([3.0, 4.0], [3.0, 4.0]), cosine([3.0, 4.0], [0.0, 0.0])
    (1.0, 0.0)
    """
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    lengths = np.linalg.norm(x) * np.linalg.norm(y)
    return float(np.clip(x @ y / lengths, -1.0, 1.0)) if lengths else 0.0


def _builtin(checkpoint: HubFile, base: HubFolder, options: EngineOptions) -> Reader[Findings]:
    import torch

    encoder, heads = _load(fetch(checkpoint), fetch_folder(base), options)

    def encode(ids: Sequence[list[int]]) -> np.ndarray:
        with torch.inference_mode():
            states = encoder.encode(ids)[:, 0]
            parts = [states @ weight.T + bias for weight, bias in heads]
            numbers: np.ndarray = torch.cat([*parts, states], dim=1).cpu().numpy()
        if not np.isfinite(numbers).all():  # would look like a report that mentions nothing
            raise FloatingPointError("CheXbert returned numbers that are not finite")
        return numbers

    return Reader(encoder.tokenise, encode, lambda _, numbers: [*map(_findings, numbers)], _size)


def _size(findings: Findings) -> int:
    return findings.embedding.nbytes + 4000


def _findings(numbers: np.ndarray) -> Findings:
    """From the logits of all heads (13 times 4, then 2), followed by the [CLS] state."""
    logits = tuple(tuple(values.tolist()) for values in np.split(numbers[:54], range(4, 54, 4)))
    # A copy, which doesn't keep the numbers of a whole batch in memory.
    return Findings(tuple(int(np.argmax(values)) for values in logits), logits, numbers[54:].copy())


def _reference(checkpoint: HubFile, base: HubFolder, options: EngineOptions) -> Reader[Findings]:
    if base != BASE:
        raise UsageError("backend reference takes bert-base-uncased from the hub or its cache; leave out option base")
    numbers_of = reference.f1chexbert(fetch(checkpoint).parent)
    return reference.reader(lambda texts: [_findings(np.array(numbers_of(text), np.float32)) for text in texts], _size)


def _load(checkpoint: Path, base: Path, options: EngineOptions) -> tuple[Encoder, list[tuple[Any, Any]]]:
    import torch
    from transformers import BertConfig

    try:
        # The optimizer's state is two thirds of the published file: mapped, it is never read.
        mapped = zipfile.is_zipfile(checkpoint)
        content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=mapped)
        weights = {key.removeprefix("module."): value for key, value in content["model_state_dict"].items()}
        heads = [tuple(weights[f"linear_heads.{i}.{part}"] for part in ("weight", "bias")) for i in range(14)]
    except (OSError, EOFError, pickle.UnpicklingError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{checkpoint} is not a CheXbert checkpoint: {error!r}") from error
    config = BertConfig.from_pretrained(base)
    shapes = [(4, config.hidden_size)] * 13 + [(2, config.hidden_size)]
    if [tuple(weight.shape) for weight, _ in heads] != shapes:
        raise UsageError(f"{checkpoint} is not a CheXbert checkpoint: its 14 heads must have the shapes {shapes}")
    # CheXbert has no use for the pooler; old versions of transformers saved position ids, a constant.
    unused = ("bert.pooler.", "bert.embeddings.position_ids", "linear_heads.")
    bert = {key.removeprefix("bert."): value for key, value in weights.items() if not key.startswith(unused)}
    how: Any = {"pretrained_model_name_or_path": None, "config": config, "state_dict": bert, "add_pooling_layer": False}
    what = f"CheXbert, a BERT as {base} configures it"
    encoder = load("BertModel", checkpoint, what, base, options, strict=True, **how)
    return encoder, [(weight.float().to(encoder.device), bias.float().to(encoder.device)) for weight, bias in heads]
