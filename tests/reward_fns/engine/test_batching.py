from hypothesis import given
from hypothesis import strategies as st

from reward_fns.engine.lane import batches


@given(st.lists(st.integers(1, 600), max_size=60), st.integers(1, 1200))
def test_batches_hold_everything_once_within_the_budget(lengths, tokens):
    found = list(batches(lengths, tokens))
    assert sorted(i for batch in found for i in batch) == list(range(len(lengths)))
    for batch in found:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= tokens


def test_batches_are_sorted_and_full():
    assert list(batches([5, 1, 5, 1, 1], tokens=10)) == [[1, 3, 4], [0, 2]]
    assert list(batches([], tokens=10)) == []
