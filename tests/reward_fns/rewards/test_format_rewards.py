import pytest

from reward_fns.errors import UsageError
from reward_fns.registry import TASKS, get
from reward_fns.rewards.length_window import length_window
from reward_fns.rewards.overlong import overlong
from reward_fns.rewards.think_format import think_format
from reward_fns.rollout import Rollout
from reward_fns.scoring import score_batch
from reward_fns.spec import of_rewards, preset_names, resolve


@pytest.mark.parametrize(
    ("output", "value"),
    [
        ("<think>a</think>b", 1.0),
        (" \n<think>\na\n</think>\n\nb\n", 1.0),
        ("<think>a</think>", 0.0),
        ("<think>a</think> \n", 0.0),
        ("<think> </think>b", 0.0),
        ("<think>a", 0.0),
        ("a</think>b", 0.0),
        ("b", 0.0),
        ("", 0.0),
        ("x<think>a</think>b", 0.0),
        ("<think>a</think>b<think>c</think>d", 0.0),
        ("<think>a</think>b</think>c", 0.0),
        ("<think><think>a</think>b", 0.0),
        ("</think>a<think>b", 0.0),
        ("<THINK>a</THINK>b", 0.0),
    ],
)
def test_think_format(output, value):
    assert think_format("b", "", output=output) == value
    # What the prompt opens and what the model opens are the same text.
    if output.startswith("<think>"):
        assert think_format("b", "", opened_by_prompt=True, output=output.removeprefix("<think>")) == value


def test_think_format_when_the_prompt_opens():
    assert think_format("b", "", opened_by_prompt=True, output="<think>a</think>b") == 0.0
    assert think_format("b", "", opened_by_prompt=True, output="b") == 0.0


@pytest.mark.parametrize(("output", "value"), [("b", 1.0), ("<think>a</think>b", 0.0), ("b</think>", 0.0)])
def test_think_format_of_a_sample_without_thoughts(output, value):
    assert think_format("b", "", output=output, thinking=False) == value


@pytest.mark.parametrize(("words", "value"), [(0, 0.0), (1, 0.125), (4, 0.5), (8, 1.0), (12, 1.0), (24, 0.5)])
def test_length_window(words, value):
    assert length_window("a " * words, "b " * 10, high=1.2) == pytest.approx(value)


def test_length_window_falls_on_both_sides_and_stays_in_range():
    values = [length_window("a " * words, "b " * 40) for words in range(400)]
    peak = [words for words, value in enumerate(values) if value == 1.0]
    assert peak == list(range(32, 51))
    assert values[:33] == sorted(values[:33]) and values[50:] == sorted(values[50:], reverse=True)
    assert all(0.0 <= value <= 1.0 for value in values)


def test_length_window_of_a_reference_without_words():
    assert length_window("a", "") == 1.0


@pytest.mark.parametrize(
    ("length", "value"), [(0, 0.0), (3000, 0.0), (3001, -0.001), (3500, -0.5), (4000, -1.0), (10**6, -1.0)]
)
def test_overlong(length, value):
    assert overlong("", "", output="x" * length) == pytest.approx(value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("overlong", {"limit": 0}, "limit of reward overlong must be a whole number from 1"),
        ("overlong", {"limit": 10.5}, "must be a whole number"),
        ("length_window", {"low": 0}, "low of reward length_window must be a finite number from 0.01"),
    ],
)
def test_options_out_of_range(name, options, message):
    with pytest.raises(UsageError, match=message):
        get(name).check_options(options)


def test_options_that_contradict_each_other():
    with pytest.raises(UsageError, match="is empty"):
        length_window("a", "b", low=2.0, high=1.0)
    with pytest.raises(UsageError, match="buffer=10 must be at most limit=5"):
        overlong("", "", limit=5, buffer=10)


def test_they_see_the_whole_output_of_any_task():
    spec = of_rewards(["think_format", "overlong"])
    assert set(spec.tasks) == set(TASKS)
    truth = {"boxes": [[0.1, 0.2, 0.5, 0.6]]}
    info = {"thinking": True}
    good, bad, cut = score_batch(
        [
            Rollout("a/grounding", "<think>low</think>[0.1, 0.2, 0.5, 0.6]", truth, info),
            Rollout("a/report", "x" * 3500 + "</think>clear", {"report": "clear"}, info),
            Rollout("a/report", "<think>" + "x" * 200, {"report": "clear"}, info),
        ],
        spec,
    )
    assert (good["think_format"], good["overlong"]) == (1.0, 0.0)
    assert (bad["think_format"], bad["overlong"]) == (0.0, pytest.approx(-0.513))
    assert (cut["think_format"], cut["overlong"], cut["model_failed"]) == (0.0, -1.0, 1.0)


def test_no_preset_of_the_paper_trains_on_them():
    for name in preset_names():
        if name.startswith("paper"):
            assert not {"think_format", "length_window", "overlong"} & set(resolve(preset=name).reward_names)
