"""BERTScore: how well the tokens of two texts match each other, as seen by a language model.

As in bert-score 0.3.13 without idf weights (arXiv 1904.09675, section 3; parity is tested), on transformers 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from reward_fns.scorers.encoder import Encoder, encodable, load
from reward_fns.scorers.weights import CONFIG_AND_TOKENIZER, HubFolder, fetch_folder, pinned_model

_PATTERNS = (*CONFIG_AND_TOKENIZER, "model.safetensors")
_PAIRS = 128  # whose token states are in memory at once

Model = Literal["distilbert-base-uncased", "distilroberta-base"]


class BertScore(NamedTuple):
    """Precision (of the prediction's tokens), recall (of the reference's) and their harmonic mean."""

    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Setting:
    """A model, the layer whose states count, and what unrelated texts score with that.

    Attributes:
        folder: where the model comes from.
        layer: the layer that bert-score prefers for it.
        baseline: rescale_baseline/en/<model>.tsv of bert-score 0.3.13, row of that layer.
        prefix: put before a text that is not empty: byte-level BPE tells a word after a space from one without.
    """

    folder: HubFolder
    layer: int
    baseline: BertScore
    prefix: str = ""


SETTINGS: dict[Model, Setting] = {
    "distilbert-base-uncased": Setting(
        HubFolder("distilbert/distilbert-base-uncased", patterns=_PATTERNS),
        5,
        BertScore(0.6666034, 0.66660464, 0.66620487),
    ),
    "distilroberta-base": Setting(
        HubFolder("distilbert/distilroberta-base", patterns=_PATTERNS),
        5,
        BertScore(0.84732, 0.84759504, 0.8473319),
        prefix=" ",
    ),
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

    Every token counts as much as the one of the other text that is most like it (cosine of their states); precision and
    recall are means over the tokens but [CLS] and [SEP], and at least 0. If either text has no token, all three are 0
    before rescaling. Values are those of bert-score for one pair at a time: in a padded batch it takes a negative
    cosine for 0. Cost: a pass of five layers per distinct text, in batches.

    Args:
        predictions: the generated texts.
        references: the true ones.
        model: one of `SETTINGS`; texts are cut at 512 tokens.
        rescale: (x - baseline) / (1 - baseline), so that 0 is what unrelated texts score; at worst -2.0 for
            distilbert-base-uncased and -5.55 for distilroberta-base. Otherwise all three are from 0 to 1.
        folder: where to read the model instead.

    Raises:
        UsageError: the model is not there, or is something else.
    """
    setting = SETTINGS[model]
    place = folder or setting.folder
    encoder = pinned_model(("bertscore", model, place), lambda: _load(fetch_folder(place), model))
    scores: list[BertScore] = []
    for start in range(0, len(predictions), _PAIRS):
        sides = (
            [setting.prefix + text if text else "" for text in map(_clean, side[start : start + _PAIRS])]
            for side in (predictions, references)
        )
        pairs = list(zip(*sides, strict=True))
        states = _states(encoder, list(dict.fromkeys(text for pair in pairs for text in pair)))
        scores += [_match(states[prediction], states[reference]) for prediction, reference in pairs]
    return [rescaled(score, model) for score in scores] if rescale else scores


def _clean(text: str) -> str:
    return encodable(text).strip()


def _states(encoder: Encoder, texts: list[str]) -> dict[str, tuple[Any, Any]]:
    """Per text, the states of its tokens, of length 1, and which of them are no special ones."""
    import torch

    special = torch.tensor([encoder.tokenizer.cls_token_id, encoder.tokenizer.sep_token_id])
    found = {}
    for batch in encoder(texts):
        states = torch.nn.functional.normalize(batch.states, dim=-1)
        for row, (i, ids) in enumerate(zip(batch.indices, batch.ids, strict=True)):
            counts = ~torch.isin(torch.tensor(ids), special)
            found[texts[i]] = states[row, : len(ids)], counts.to(states.device)
    return found


def _match(prediction: tuple[Any, Any], reference: tuple[Any, Any]) -> BertScore:
    (states, counts), (other_states, other_counts) = prediction, reference
    if not (counts.any() and other_counts.any()):
        return BertScore(0.0, 0.0, 0.0)
    # bert-score lets [CLS] and [SEP] be matched, though they don't count themselves.
    cosines = states @ other_states.T
    precision, recall = (
        min(max(cosines.amax(dim=dim)[tokens].mean().item(), 0.0), 1.0)
        for dim, tokens in ((1, counts), (0, other_counts))
    )
    both = precision + recall
    return BertScore(precision, recall, 2 * precision * recall / both if both else 0.0)


def rescaled(score: BertScore, model: Model) -> BertScore:
    """The score on a scale on which unrelated texts get 0: (x - baseline) / (1 - baseline).

    >>> rescaled(BertScore(1.0, 1.0, 1.0), "distilroberta-base")
    BertScore(precision=1.0, recall=1.0, f1=1.0)
    """
    baseline = SETTINGS[model].baseline
    return BertScore(*((value - base) / (1 - base) for value, base in zip(score, baseline, strict=True)))


def source(model: Model, repo: str, revision: str = "main") -> HubFolder:
    """The files that `bertscore` reads, from a hub repository or local folder; "" is the published one."""
    published = SETTINGS[model].folder
    return replace(published, repo=repo or published.repo, revision=revision)


def _load(folder: Path, model: Model) -> Encoder:
    from transformers import AutoModel, AutoTokenizer

    layer = SETTINGS[model].layer
    encoder = load(
        AutoModel.from_pretrained, folder, model, strict=False,
        pretrained_model_name_or_path=folder, num_hidden_layers=layer, use_safetensors=True,
    )  # fmt: skip
    return Encoder(encoder, AutoTokenizer.from_pretrained(folder))
