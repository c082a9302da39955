"""What RadGraph finds in a report."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entity:
    """Words of a report that name an observation or an anatomical structure.

    Attributes:
        tokens: the words, with a space between them.
        label: such as "OBS-DP" (model radgraph) or "Observation::definitely present" (the others).
        start, end: first and last word, counted from 0.
        relations: type ("modify", "located_at", "suggestive_of") and index, in the annotation, of the entity that
            this one relates to.
    """

    tokens: str
    label: str
    start: int
    end: int
    relations: tuple[tuple[str, int], ...] = ()


Annotation = tuple[Entity, ...]


def size_of(annotation: Annotation) -> int:
    """Bytes of memory that an annotation takes, roughly."""
    return 300 + 600 * len(annotation)
