"""Likeness of two reports as CheXbert sees them."""

from collections.abc import Sequence

from reward_fns.models.chexbert import BASE, CHECKPOINT, Backend, classify, cosine, needs, sources
from reward_fns.models.texts import paired
from reward_fns.registry import reward


@reward("chexbert_cosine", task="report", range=(-1.0, 1.0), batched=True, needs=needs)
def chexbert_cosine(
    predictions: Sequence[str],
    references: Sequence[str],
    repo: str = CHECKPOINT.repo,
    revision: str = CHECKPOINT.revision,
    base: str = BASE.repo,
    backend: Backend = "builtin",
) -> list[float]:
    """Cosine of the [CLS] states of the two reports in CheXbert, known as semb score or CheXbert vector similarity.

    Source: arXiv 2308.05046, doi 10.1016/j.patter.2023.100802 (semb score in RadCliQ); used by UniRG-CXR (2601.17151).

    Args:
        repo, revision, base, backend: see `chexbert_f1`.

    Returns:
        -1 to 1; hardly ever below 0. Cost: as `chexbert_f1`. Gaming: it is smooth where `chexbert_f1` has steps, but
        a wrong finding costs little in a report that is otherwise alike.

    >>> round(cosine([1.0, 2.0, 2.0], [2.0, 2.0, 1.0]), 4)  # of vectors with 768 numbers, in truth
    0.8889
    """
    findings = classify([*predictions, *references], *sources(repo, revision, base), backend=backend)
    return [cosine(a.embedding, b.embedding) for a, b in paired(findings)]
