"""What models found in texts, kept in memory within a bound."""

from collections import OrderedDict
from typing import Generic, TypeVar

Found = TypeVar("Found")

_PROTECTED = 0.8  # share of the bound for results that were asked for more than once


class Cache(Generic[Found]):
    """A segmented least-recently-used cache, bounded in bytes; not thread-safe by itself.

    A new result is on probation and is the first to go when space is needed; one that is asked for again is protected.
    So a step's thousands of rollouts do not push out the references, which come back in every group and epoch.

    >>> cache = Cache[str](100)
    >>> cache.put("reference", "r", 40); cache.get("reference")
    'r'
    >>> for i in range(9):
    ...     cache.put(f"rollout {i}", "x", 40)
    >>> cache.get("reference"), cache.get("rollout 0")
    ('r', None)
    """

    def __init__(self, limit: int) -> None:
        protected = int(limit * _PROTECTED)
        self._protected = _Segment[Found](protected)
        self._probation = _Segment[Found](limit - protected)

    def get(self, key: str) -> Found | None:
        """The result stored under a key, which is protected from now on; None if there is none."""
        if key in self._probation:
            self._protected.add(key, *self._probation.take(key))
        if key not in self._protected:
            return None
        self._protected.move_to_end(key)
        return self._protected[key][0]

    def put(self, key: str, found: Found, size: int) -> None:
        """Store a result of `size` bytes, unless the key is there already."""
        if key not in self._protected and key not in self._probation:
            self._probation.add(key, found, size)


class _Segment(OrderedDict[str, tuple[Found, int]]):
    """Results and their sizes, the least recently used first."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit, self.bytes = limit, 0

    def add(self, key: str, found: Found, size: int) -> None:
        self[key] = found, size
        self.bytes += size
        while self.bytes > self.limit and len(self) > 1:  # the newest one stays: it may be asked for at once
            self.take(next(iter(self)))

    def take(self, key: str) -> tuple[Found, int]:
        entry = self.pop(key)
        self.bytes -= entry[1]
        return entry
