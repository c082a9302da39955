"""RadGraph F1 as RadCliQ has it, entities and relations apart."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, Literal

from reward_fns.models import radgraph
from reward_fns.models.weights import HubFile, HubFolder
from reward_fns.registry import reward
from reward_fns.rewards.bertscore import MaxChars, shortened

RadGraphModel = Literal["radgraph-xl", "radgraph"]


def needs(options: Mapping[str, Any]) -> Iterator[HubFile | HubFolder]:
    """The weight files of this reward."""
    return radgraph.sources(*(options[name] for name in ("model", "revision", "repo", "encoder")))


def combined_f1(prediction: radgraph.Annotation, reference: radgraph.Annotation) -> float:
    """Mean of the F1 of the sets of entities (tokens, label) and of the sets of relations between such entities.

    An F1 is 0 if either set is empty, so that a perfect pair without any relation gets 0.5.

    >>> heart = radgraph.Entity("heart", "ANAT-DP", 1, 1)
    >>> enlarged = radgraph.Entity("enlarged", "OBS-DP", 3, 3, (("located_at", 0),))
    >>> combined_f1((heart, enlarged), (heart, enlarged)), combined_f1((heart,), (heart,)), combined_f1((heart,), ())
    (1.0, 0.5, 0.0)
    """
    sides = [(_entities(side), _relations(side)) for side in (prediction, reference)]
    return sum(2 * len(a & b) / (len(a) + len(b)) for a, b in zip(*sides, strict=True) if a and b) / 2


def _entities(annotation: radgraph.Annotation) -> set[Hashable]:
    return {(entity.tokens, entity.label) for entity in annotation}


def _relations(annotation: radgraph.Annotation) -> set[Hashable]:
    return {
        (entity.tokens, entity.label, annotation[target].tokens, annotation[target].label, relation)
        for entity in annotation
        for relation, target in entity.relations
    }


@reward("radgraph_combined", task="report", range=(0.0, 1.0), batched=True, needs=needs)
def radgraph_combined(
    predictions: Sequence[str],
    references: Sequence[str],
    model: RadGraphModel = "radgraph",
    lower_text: bool = True,
    max_chars: MaxChars = 2048,
    repo: str = radgraph.REPO,
    revision: str = "main",
    encoder: str = "",
) -> list[float]:
    """Mean of RadGraph's F1 of entities and F1 of relations, the RadGraph part of RadCliQ; see `combined_f1`.

    Args:
        predictions: the generated reports.
        references: the true reports.
        model: "radgraph", as RadCliQ's authors, or "radgraph-xl".
        lower_text, max_chars: cut both texts and lower-case them first; 0 for no limit.
        repo, revision, encoder: see `radgraph_f1`.

    Returns:
        0 to 1; only 0.5 for two equal reports in which no finding relates to another. Cost and gaming: as
        `radgraph_f1`.

    Source: doi 10.1016/j.patter.2023.100802; in the reward of arXiv 2601.17151 (UniRG-CXR).

    >>> heart = radgraph.Entity("heart", "ANAT-DP", 1, 1)
    >>> combined_f1((heart, radgraph.Entity("large", "OBS-DP", 3, 3)), (heart,))  # entities 2/3, relations 0
    0.3333333333333333
    """
    texts = shortened([*predictions, *references], lower_text, max_chars)
    graphs = radgraph.annotate(texts, model=model, revision=revision, max_chars=0, repo=repo, encoder=encoder)
    sides = graphs[: len(predictions)], graphs[len(predictions) :]
    return [combined_f1(*pair) for pair in zip(*sides, strict=True)]
