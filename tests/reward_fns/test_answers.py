import pytest

from reward_fns.answers import extract_answer


@pytest.mark.parametrize(
    ("text", "thinking", "think_end", "answer"),
    [
        ("  No mass. \n", False, "last", "No mass."),
        ("", False, "last", None),
        (" \n\t ", False, "last", None),
        ("<think>a</think>b", False, "last", "<think>a</think>b"),
        ("<think>a</think> b", True, "last", "b"),
        ("a</think>b</think>c", True, "last", "c"),
        ("a</think>b</think>c", True, "first", "b</think>c"),
        ("<think>a", True, "last", None),
        ("<think>a", True, "first", None),
        ("<think>a</think> ", True, "last", None),
        ("a</think>b</think>", True, "last", None),
        ("a</think>b</think>", True, "first", "b</think>"),
    ],
)
def test_extract_answer(text, thinking, think_end, answer):
    assert extract_answer(text, thinking=thinking, think_end=think_end) == answer
