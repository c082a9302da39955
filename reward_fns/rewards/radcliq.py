"""RadCliQ-v1 of a report, and a form of it that stays between 0 and 1."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from reward_fns.models import bertscore, chexbert, radgraph
from reward_fns.models.radgraph_facts import RadGraphModel, combined_f1
from reward_fns.models.texts import MaxChars, MinChars, paired, score_long_pairs, shortened
from reward_fns.models.weights import HubFile, HubFolder
from reward_fns.registry import reward

# radcliq-v1.pkl of github.com/rajpurkarlab/CXR-Report-Metric: a StandardScaler and a linear regression on RadGraph F1,
# BERTScore, cosine of CheXbert and BLEU. The last is left out: its coefficient is 4.3e-12.
_MEAN = (0.5379231241355762, 0.6175725628125001, 0.7647942121140658)
_SCALE = (0.3028258411486429, 0.22430938459304575, 0.2539439110169773)
_COEFFICIENT = (-0.37708368261038905, -0.37030009974480316, -0.25261621789593225)
_INTERCEPT = 2.466552561323256e-10

_BERT: bertscore.Model = "distilroberta-base"
_WORST, _PERFECT = -3.0, 1.4407


def radcliq_v1(radgraph_f1: float, bert_f1: float, semb: float) -> float:
    """RadCliQ-v1, about how many errors a radiologist would find, standardized (lower is better), from its parts:

    `combined_f1` of RadGraph, rescaled BERTScore F1 of distilroberta-base, and cosine of the CheXbert embeddings.

    >>> round(radcliq_v1(1, 1, 1), 4), round(radcliq_v1(0, 0, 0), 4)
    (-1.4407, 2.4501)
    """
    parts = zip((radgraph_f1, bert_f1, semb), _MEAN, _SCALE, _COEFFICIENT, strict=True)
    return math.fsum(weight * (value - mean) / scale for value, mean, scale, weight in parts) + _INTERCEPT


def needs(options: Mapping[str, Any]) -> Iterator[HubFile | HubFolder]:
    """The weight files of these rewards."""
    repo, revision = options["repo"], options["revision"]
    yield from radgraph.sources(options["radgraph_model"], revision, repo, options["encoder"])
    yield from chexbert.sources(repo, revision, options["base"])
    yield bertscore.source(_BERT, options["bert"])


@reward("radcliq", task="report", range=(-12.61, 1.45), batched=True, floor=_WORST, needs=needs)
def radcliq(
    predictions: Sequence[str],
    references: Sequence[str],
    clip: bool = True,
    lower_text: bool = True,
    max_chars: MaxChars = 2048,
    min_chars: MinChars = 6,
    radgraph_model: RadGraphModel = "radgraph-xl",
    repo: str = radgraph.REPO,
    revision: str = "main",
    encoder: str = "",
    base: str = chexbert.BASE.repo,
    bert: str = "",
) -> list[float]:
    """Minus RadCliQ-v1, the composite of RadGraph F1, BERTScore and CheXbert likeness: higher is better.

    1.24522 RadGraph + 1.65085 BERTScore + 0.99477 cosine - 2.45014; see `radcliq_v1` and `combined_f1` for the parts.

    Args:
        clip: raise what is below -3 to -3. BERTScore can be negative, and a garbled report then scores less than none,
            as in arXiv 2512.10691.
        lower_text, max_chars: cut both texts and lower-case them first, as that paper does; 0 for no limit.
        min_chars: if either text is then shorter, the value is -3, as for a failure of the model.
        radgraph_model: "radgraph-xl", as that paper, or "radgraph", as RadCliQ's authors; values differ.
        repo, revision: hub repository, or local folder, of RadGraph's archive and CheXbert's checkpoint.
        encoder, base: the same for the configuration and tokenizer of RadGraph ("": what its archive names), CheXbert.
        bert: the same for distilroberta-base; "" for the published one.

    Returns:
        -3 (-12.61 if not clipped) to 1.4407, the value of two equal reports with a relation between findings in them
        (0.8181 without any). Cost: the sum of its parts, three passes per distinct text, in batches. Gaming: nonsense
        hardly pays, yet short reports of frequent findings do well: with it the reports of table 3 got a sixth
        shorter. Watch answer_chars.

    Source: doi 10.1016/j.patter.2023.100802 (RadCliQ-v1, constants as published); arXiv 2512.10691, section 3.

    >>> round(-radcliq_v1(radgraph_f1=0.5, bert_f1=0.6, semb=0.9), 4)
    0.0583
    """

    def score(ours: list[str], theirs: list[str]) -> list[float]:
        texts = [*ours, *theirs]
        weights: Any = {"model": radgraph_model, "revision": revision, "repo": repo, "encoder": encoder}
        graphs = radgraph.annotate(texts, **weights, max_chars=0)
        findings = chexbert.classify(texts, *chexbert.sources(repo, revision, base))
        berts = bertscore.bertscore(ours, theirs, model=_BERT, folder=bertscore.source(_BERT, bert))
        return [
            -radcliq_v1(combined_f1(*pair), bert.f1, chexbert.cosine(a.embedding, b.embedding))
            for pair, bert, (a, b) in zip(paired(graphs), berts, paired(findings), strict=True)
        ]

    ours, theirs = (shortened(side, lower_text, max_chars) for side in (predictions, references))
    values = score_long_pairs(score, ours, theirs, min_chars, floor=_WORST)
    return [max(value, _WORST) for value in values] if clip else values


@reward("radcliq_bounded", task="report", range=(0.0, 1.0), batched=True, needs=needs)
def radcliq_bounded(
    predictions: Sequence[str],
    references: Sequence[str],
    transform: Literal["sigmoid", "linear"] = "sigmoid",
    radgraph_model: RadGraphModel = "radgraph-xl",
    repo: str = radgraph.REPO,
    revision: str = "main",
    encoder: str = "",
    base: str = chexbert.BASE.repo,
    bert: str = "",
) -> list[float]:
    """RadCliQ-v1 turned into 0 to 1, higher is better, to be mixed with other rewards.

    Args:
        transform: "sigmoid", 1 / (1 + exp(RadCliQ)), in which two equal reports get 0.81; arXiv 2604.00493 (CheXOne)
            has twice that, for which give it weight 2. "linear" moves -3 to 0 and 1.4407, a perfect pair, to 1.
        radgraph_model, repo, revision, encoder, base, bert: see `radcliq`, whose defaults for the texts hold.

    Returns:
        0 to 1, 0 for a text of at most 5 characters; cost and gaming as for `radcliq`.

    >>> round(bounded(1.4407, "sigmoid"), 4), bounded(1.4407, "linear"), bounded(-3.0, "linear")
    (0.8086, 1.0, 0.0)
    """
    models: Any = {"radgraph_model": radgraph_model, "repo": repo, "revision": revision, "encoder": encoder}
    values = radcliq(predictions, references, base=base, bert=bert, **models)
    return [bounded(value, transform) for value in values]


def bounded(value: float, transform: Literal["sigmoid", "linear"]) -> float:
    """-RadCliQ turned into 0 to 1; -3, the value of a failure, always gives 0. See `radcliq_bounded`."""
    if transform == "sigmoid":
        return 1 / (1 + math.exp(-value)) if value > _WORST else 0.0
    return min(max((value - _WORST) / (_PERFECT - _WORST), 0.0), 1.0)
