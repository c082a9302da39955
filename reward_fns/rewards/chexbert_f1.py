"""Agreement of the findings that CheXbert reads in two reports."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from reward_fns.models import chexbert
from reward_fns.models.chexbert import OBSERVATIONS, POSITIVE, UNCERTAIN, Backend
from reward_fns.models.texts import paired
from reward_fns.registry import Between, reward

Labels = Literal["all", "top5"]
Uncertain = Literal["positive", "class"]
Definition = Literal["f1", "accuracy", "exact"]
_TOP5 = ("Cardiomegaly", "Edema", "Consolidation", "Atelectasis", "Pleural Effusion")
INDICES = {"all": range(len(OBSERVATIONS)), "top5": [OBSERVATIONS.index(name) for name in _TOP5]}


@reward("chexbert_f1", task="report", range=(0.0, 1.0), batched=True, needs=chexbert.needs)
def chexbert_f1(
    predictions: Sequence[str],
    references: Sequence[str],
    labels: Labels = "all",
    uncertain: Uncertain = "positive",
    definition: Definition = "f1",
    both_empty: Annotated[float, Between(0, 1)] = 1.0,
    repo: str = chexbert.CHECKPOINT.repo,
    revision: str = chexbert.CHECKPOINT.revision,
    base: str = chexbert.BASE.repo,
    backend: Backend = "builtin",
) -> list[float]:
    """F1 of the findings that CheXbert sees in the two reports, one report at a time.

    2 TP / (2 TP + FP + FN) over the observations that are marked in either report; see `agreement` for the other
    definitions. Sample and micro F1 of one report are the same; micro and macro F1 of tables are not means of it.
    Source: arXiv 2004.09167 (CheXbert); labels as in the package f1chexbert 0.0.2 (parity is tested), whose mode "rrg"
    is `uncertain="positive"`. As a reward in arXiv 2509.22812 (EditGRPO: micro F1 of 14).

    Args:
        labels, uncertain, definition, both_empty: see `agreement`.
        repo, revision: hub repository, or local folder, of chexbert.pth.
        base: the same for the configuration and tokenizer of bert-base-uncased.
        backend: "reference" has the f1chexbert package do it, in an environment where it runs.

    Returns:
        0 to 1. Cost: a pass of a BERT-base per distinct text, in batches. Gaming: severity, location, wording and all
        outside the 14 observations are free; lists of frequent findings score well; a group often gets one value.

    >>> prediction = (0, 1, 0, 0, 3, 0, 0, 0, 2, 1, 0, 0, 0, 0)  # cardiomegaly, effusion, perhaps edema
    >>> reference = (0, 1, 0, 0, 1, 0, 0, 1, 2, 2, 0, 0, 0, 0)  # cardiomegaly, edema, atelectasis, no effusion
    >>> round(agreement(prediction, reference), 4)
    0.6667
    """
    sources = chexbert.sources(repo, revision, base)
    findings = chexbert.classify([*predictions, *references], *sources, backend=backend)
    how: Any = {"labels": labels, "uncertain": uncertain, "definition": definition, "both_empty": both_empty}
    return [agreement(a.classes, b.classes, **how) for a, b in paired(findings)]


def agreement(
    prediction: Sequence[int],
    reference: Sequence[int],
    *,
    labels: Labels = "all",
    uncertain: Uncertain = "positive",
    definition: Definition = "f1",
    both_empty: float = 1.0,
) -> float:
    """How far two reports agree, 0 to 1, by the classes of CheXbert's 14 observations.

    Args:
        prediction, reference: per observation 0 blank, 1 positive, 2 negative or 3 uncertain.
        labels: "all" 14, with "No Finding" as one of them, or the "top5" of the field: cardiomegaly, edema,
            consolidation, atelectasis and pleural effusion.
        uncertain: an uncertain observation counts as "positive", or as a "class" of its own that matches only itself.
            Blank and negative are the same in either case.
        definition: "f1" of the marked observations; "accuracy", the share of all observations that agree; or "exact",
            1 if all agree and else 0 (what f1chexbert and RadEval return per report, for the top 5).
        both_empty: "f1" if nothing is marked in either report; scikit-learn, and so f1chexbert, has 0 there.

    >>> perhaps, surely = [0, 3] + [0] * 12, [0, 1] + [0] * 12
    >>> agreement(perhaps, surely), agreement(perhaps, surely, uncertain="class")
    (1.0, 0.0)
    >>> round(agreement(perhaps, [0] * 14, definition="accuracy"), 4)
    0.9286
    """
    # What each class counts as; blank and negative are 0.
    marks = {POSITIVE: POSITIVE, UNCERTAIN: POSITIVE if uncertain == "positive" else UNCERTAIN}
    ours, theirs = ([marks.get(classes[i], 0) for i in INDICES[labels]] for classes in (prediction, reference))
    same = sum(a == b for a, b in zip(ours, theirs, strict=True))
    if definition == "accuracy":
        return same / len(ours)
    if definition == "exact":
        return float(same == len(ours))
    marked = sum(map(bool, ours)) + sum(map(bool, theirs))
    hits = sum(bool(a) and a == b for a, b in zip(ours, theirs, strict=True))
    return 2 * hits / marked if marked else both_empty
