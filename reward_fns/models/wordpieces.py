"""How RadGraph lays a report's wordpieces out in rows for its encoder, oddities of the radgraph package included."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """Rows of wordpieces, and where in them the vector of each piece is read.

    Attributes:
        head, tail: special tokens around a row, [CLS] and [SEP].
        length: of a row at most, special tokens included.
        marked: whether rows get the special tokens. The package leaves them out for tokenizers without a class of
            their own, as ModernBERT's, yet reads vectors as if they were there; the weights were trained so.
    """

    head: list[int]
    tail: list[int]
    length: int
    marked: bool = True

    def rows(self, pieces: list[int]) -> list[list[int]]:
        """The encoder's input for one report, cut wherever a row is full.

        >>> Layout([1], [2], 5).rows([7, 8, 9, 10])
        [[1, 7, 8, 9, 2], [1, 10, 2]]
        """
        step = self._inner if self.marked else self.length
        parts = [pieces[i : i + step] for i in range(0, len(pieces), step)]
        return [self.head + part + self.tail for part in parts] if self.marked else parts

    def places(self, count: int) -> list[tuple[int, int] | None]:
        """Row and column of the vector of each of a report's pieces, or None where the package has none.

        >>> Layout([1], [2], 5).places(4)
        [(0, 1), (0, 2), (0, 3), (1, 1)]
        >>> Layout([1], [2], 5, marked=False).places(4)
        [(0, 1), (0, 2), (0, 3), None]
        """
        start = len(self.head)
        inside = [(i // self._inner, start + i % self._inner) for i in range(count)]
        if self.marked:
            return [*inside]
        if count <= self.length:
            return [(0, i + start) if i + start < count else None for i in range(count)]
        # The package drops what it takes for special tokens in each row, then puts the last vector behind the rest.
        rows = -(-count // self.length)
        last = count - (len(self.head) + len(self.tail)) * rows
        return [*inside[:last], divmod(count - 1, self.length), *[None] * (count - last - 1)]

    @property
    def _inner(self) -> int:
        return self.length - len(self.head) - len(self.tail)
