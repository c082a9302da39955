"""What a judge answered about each report, for whoever listens: evaluation does, training does not."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

MOST = 4000  # characters of an answer that are kept; 1,024 tokens of English have about as many
Record = dict[tuple[str, str, float], str]  # prediction, reference and score: a pair that comes twice may score twice
_listening: ContextVar[Record | None] = ContextVar("_listening", default=None)


@contextlib.contextmanager
def recording() -> Iterator[Record]:
    """Collect the answers that count, of the tasks that begin in here, `score_batch` included; nothing is logged.

    >>> with recording() as record:
    ...     keep("Clear lungs.", "Clear.", 1.0, "It matches.")
    >>> record
    {('Clear lungs.', 'Clear.', 1.0): 'It matches.'}
    """
    record: Record = {}
    token = _listening.set(record)
    try:
        yield record
    finally:
        _listening.reset(token)


def keep(prediction: str, reference: str, score: float, answer: str) -> None:
    """Record an answer, at most `MOST` characters of it, if somebody listens."""
    if (record := _listening.get()) is not None:
        record[prediction, reference, score] = answer if len(answer) <= MOST else f"{answer[: MOST - 2]} …"
