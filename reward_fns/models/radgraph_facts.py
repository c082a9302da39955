"""What RadGraph finds in a report, and the F1 of two such findings."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal

Level = Literal["simple", "partial", "complete"]
CaseMode = Literal["pypi", "git"]
RadGraphModel = Literal["radgraph-xl", "radgraph"]  # whose labels and relations RadCliQ's part is defined for


@dataclass(frozen=True, slots=True)
class Entity:
    """Words of a report that name an observation or an anatomical structure."""

    tokens: str  # with a space between words
    label: str  # "OBS-DP" and so on (model radgraph) or "Observation::definitely present" (the others)
    start: int  # first and last word, counted from 0
    end: int
    relations: tuple[tuple[str, int], ...] = ()  # type, such as "modify", and the other entity's index


Annotation = tuple[Entity, ...]


def size_of(annotation: Annotation) -> int:
    """Bytes of memory that an annotation takes, roughly."""
    return 300 + 600 * len(annotation)


def annotation_f1(prediction: Annotation, reference: Annotation, level: Level, case_mode: CaseMode) -> float:
    """F1 of two sets of facts, see reward `radgraph_f1`; 0 if a side has no entity.

    "Small left effusion" against "left effusion", where in the one both adjectives and in the other its only one
    relate to the effusion:

    >>> small = Entity("Small", "OBS-DP", 0, 0, (("modify", 2),))
    >>> left = Entity("left", "ANAT-DP", 1, 1)
    >>> prediction = small, left, Entity("effusion", "OBS-DP", 2, 2, (("located_at", 1),))
    >>> reference = Entity("left", "ANAT-DP", 0, 0), Entity("effusion", "OBS-DP", 1, 1)
    >>> levels = "simple", "partial", "complete"
    >>> [round(annotation_f1(prediction, reference, level, "pypi"), 4) for level in levels]
    [0.8, 0.4, 0.4]
    """
    return _set_f1(_facts(prediction, level, case_mode), _facts(reference, level, case_mode))


def combined_f1(prediction: Annotation, reference: Annotation) -> float:
    """Mean of the F1 of the sets of entities (tokens, label) and of the sets of relations between such entities.

    An F1 is 0 if either set is empty, so that a perfect pair without any relation gets 0.5.

    >>> heart = Entity("heart", "ANAT-DP", 1, 1)
    >>> enlarged = Entity("enlarged", "OBS-DP", 3, 3, (("located_at", 0),))
    >>> combined_f1((heart, enlarged), (heart, enlarged)), combined_f1((heart,), (heart,)), combined_f1((heart,), ())
    (1.0, 0.5, 0.0)
    """
    entities = _set_f1(_facts(prediction, "simple", "pypi"), _facts(reference, "simple", "pypi"))
    return (entities + _set_f1(_relations(prediction), _relations(reference))) / 2


def _set_f1(predicted: set[Hashable], true: set[Hashable]) -> float:
    return 2.0 * len(predicted & true) / (len(predicted) + len(true)) if predicted and true else 0.0


def _facts(annotation: Annotation, level: Level, case_mode: CaseMode) -> set[Hashable]:
    facts: set[Hashable] = set()
    for entity in annotation:
        tokens = entity.tokens.lower() if case_mode == "git" else entity.tokens
        if level == "simple" or not entity.relations:
            facts.add((tokens, entity.label))
        elif level == "partial":
            facts.add((tokens, entity.label, True))
        else:
            low = entity.tokens.lower()  # relations are without case in either mode
            facts |= {(low, entity.label, kind, annotation[to].tokens.lower()) for kind, to in entity.relations}
    return facts


def _relations(annotation: Annotation) -> set[Hashable]:
    return {
        (entity.tokens, entity.label, annotation[target].tokens, annotation[target].label, relation)
        for entity in annotation
        for relation, target in entity.relations
    }
