import pytest

from reward_fns.models.radgraph_model import Layout

HEAD, TAIL = [101], [102]


@pytest.mark.parametrize("count", [0, 1, 5, 6, 7, 8, 12, 13, 40])
def test_marked_rows_give_each_piece_its_own_vector(count):
    layout = Layout(HEAD, TAIL, 8)
    rows = layout.rows(list(range(count)))
    assert all(row[:1] == HEAD and row[-1:] == TAIL and len(row) <= 8 for row in rows)
    assert [rows[row][column] for row, column in layout.places(count)] == list(range(count))


def package(count, length):
    """What the package reads for each piece, when no special tokens are added: folding done step by step."""
    if count <= length:
        vectors = list(range(count))
    else:
        rows = [list(range(i, i + length)) for i in range(0, count, length)]  # padded beyond the last piece
        inner = [vector for row in rows for vector in row[1:-1]] + [None]
        inner[count - 2 * len(rows)] = count - 1  # "the end token goes behind the last piece"
        vectors = [0, *inner][: count - 2 * (len(rows) - 1)]
    return [vectors[i + 1] if i + 1 < len(vectors) else None for i in range(count)]


@pytest.mark.parametrize("count", [*range(30), 63, 64, 65])
def test_unmarked_rows_are_read_as_the_package_does(count):
    layout = Layout(HEAD, TAIL, 8, marked=False)
    rows = layout.rows(list(range(count)))
    assert [piece for row in rows for piece in row] == list(range(count))
    read = [place and rows[place[0]][place[1]] for place in layout.places(count)]
    assert read == package(count, 8)
