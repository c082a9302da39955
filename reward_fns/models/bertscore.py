"""BERTScore: how well the tokens of two texts match each other, as seen by a language model.

As in bert-score 0.3.13 without idf weights (arXiv 1904.09675, section 3; parity is tested), on transformers 5.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

from reward_fns.engine.lane import Reader
from reward_fns.engine.lanes import read
from reward_fns.models.encoder import encodable, load
from reward_fns.models.texts import paired
from reward_fns.models.weights import CONFIG_AND_TOKENIZER, HubFolder, fetch_folder
from reward_fns.settings import EngineOptions

_LAYER = 5  # of 6, which bert-score 0.3.13 prefers for both models
_PAIRS = 128  # whose token states are in memory at once

Model = Literal["distilbert-base-uncased", "distilroberta-base"]


class BertScore(NamedTuple):
    """Precision (of the prediction's tokens), recall (of the reference's) and their harmonic mean."""

    precision: float
    recall: float
    f1: float


class Setting(NamedTuple):
    """For a model, the row of its layer in bert-score 0.3.13's rescale_baseline/en.

    The prefix goes before a text that is not empty: byte-level BPE tells a word after a space from one without.
    """

    baseline: BertScore
    prefix: str = ""


SETTINGS: dict[Model, Setting] = {
    "distilbert-base-uncased": Setting(BertScore(0.6666034, 0.66660464, 0.66620487)),
    "distilroberta-base": Setting(BertScore(0.84732, 0.84759504, 0.8473319), prefix=" "),
}


def bertscore(
    predictions: Sequence[str],
    references: Sequence[str],
    *,
    model: Model = "distilbert-base-uncased",
    rescale: bool = True,
    folder: HubFolder | None = None,
) -> list[BertScore]:
    """BERTScore of pairs of texts; each different text of a few pairs goes through the model once.

    Every token counts as much as the most similar one of the other text (cosine of their states); precision and recall
    are means over the tokens but [CLS] and [SEP], 0 to 1, and 0 if either text has no token. Texts are cut at 512
    tokens. Values are those of bert-score for one pair at a time: in a padded batch it takes a negative cosine for 0.

    `rescale` is (x - baseline) / (1 - baseline), so that 0 is what unrelated texts score; at worst -2.0 for
    distilbert-base-uncased and -5.55 for distilroberta-base. `folder` is where to read the model instead.
    """
    prefix = SETTINGS[model].prefix
    source_folder = folder or source(model, "")
    build = partial(_reader, source_folder, model)
    scores: list[BertScore] = []
    for start in range(0, len(predictions), _PAIRS):
        both = [*predictions[start : start + _PAIRS], *references[start : start + _PAIRS]]
        texts = [prefix + text if text else "" for text in (encodable(text).strip() for text in both)]
        states = read(("bertscore", model, source_folder), build, texts)
        scores += _match([*paired(states)])
    return [rescaled(score, model) for score in scores] if rescale else scores


class States(NamedTuple):
    states: Any  # of a text's tokens, of length 1
    counts: Any  # which tokens are not special
    full: bool  # whether any is not

    def __reduce__(self) -> tuple[Any, ...]:  # for another process, which may have another device
        return States, (self.states.cpu(), self.counts.cpu(), self.full)


def _reader(source_folder: HubFolder, model: Model, options: EngineOptions) -> Reader[States]:
    import torch

    path = fetch_folder(source_folder)
    how: Any = {"pretrained_model_name_or_path": path, "num_hidden_layers": _LAYER}
    encoder = load("AutoModel", path, model, path, options, strict=False, use_safetensors=True, **how)
    special = {encoder.tokenizer.cls_token_id, encoder.tokenizer.sep_token_id}

    def encode(ids: Sequence[list[int]]) -> Any:
        with torch.inference_mode():
            return torch.nn.functional.normalize(encoder.encode(ids), dim=-1)

    def decode(ids: Sequence[list[int]], states: Any) -> list[States]:
        counts = [[token not in special for token in row] for row in ids]
        # Copies, which don't keep the states of a whole batch in memory.
        return [
            States(states[i, : len(of_text)].clone(), torch.tensor(of_text, device=states.device), any(of_text))
            for i, of_text in enumerate(counts)
        ]

    return Reader(encoder.tokenise, encode, decode, size=lambda result: result.states.nbytes)


def _match(pairs: Sequence[tuple[States, States]]) -> list[BertScore]:
    import torch

    none = torch.zeros(2, device=pairs[0][0].states.device)
    means = torch.stack([_means(a, b) if a.full and b.full else none for a, b in pairs])
    # All at once: every transfer waits for the device.
    return [BertScore(p, r, 2 * p * r / (p + r) if p + r else 0.0) for p, r in means.clamp(0.0, 1.0).tolist()]


def _means(prediction: States, reference: States) -> Any:
    """Precision and recall of two texts, as a tensor."""
    import torch

    device = prediction.states.device
    # bert-score lets [CLS] and [SEP] be matched, though they don't count themselves.
    cosines = prediction.states @ reference.states.to(device).T
    best = (prediction.counts, cosines.amax(dim=1)), (reference.counts.to(device), cosines.amax(dim=0))
    return torch.stack([likeness[counts].mean() for counts, likeness in best])


def rescaled(score: BertScore, model: Model) -> BertScore:
    """The score on a scale on which unrelated texts get 0: (x - baseline) / (1 - baseline).

    >>> rescaled(BertScore(1.0, 1.0, 1.0), "distilroberta-base")
    BertScore(precision=1.0, recall=1.0, f1=1.0)
    """
    baseline = SETTINGS[model].baseline
    return BertScore(*((value - base) / (1 - base) for value, base in zip(score, baseline, strict=True)))


def source(model: Model, repo: str, revision: str = "main") -> HubFolder:
    """The files that `bertscore` reads, from a hub repository or local folder; "" is the published one."""
    return HubFolder(repo or f"distilbert/{model}", revision, (*CONFIG_AND_TOKENIZER, "model.safetensors"))
