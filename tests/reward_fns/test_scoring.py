import inspect
import json
import math

import numpy as np
import pytest

import reward_fns
from reward_fns.calling import ROWS, counts
from reward_fns.errors import DataError, ScorerUnavailable, UsageError
from reward_fns.registry import reward
from reward_fns.scoring import Rollout, score_batch
from reward_fns.spec import of_rewards, resolve

TRUTH = {"boxes": [[0.1, 0.2, 0.5, 0.6]], "labels": ["nodule"]}
RIGHT = "[0.1, 0.2, 0.5, 0.6]"
MIXED = {
    "report": [{"name": "gleu", "weight": 2.0}],
    "grounding": [{"name": "box_soft_f1", "weight": 0.5}, {"name": "box_f1@0.5", "weight": 0.25}],
}
KEYS = ["score", "acc", "gleu", "box_soft_f1", "box_f1@0.5", "format_ok", "model_failed", "answer_chars", "n_boxes",
        "n_invalid_boxes"]  # fmt: skip


def test_verl_can_await_it():
    assert inspect.iscoroutinefunction(reward_fns.compute_score)
    with pytest.raises(AttributeError, match="nothing"):
        _ = reward_fns.nothing


def test_weighted_sum_and_the_same_keys_for_every_task(score):
    box = score(RIGHT, json.dumps(TRUTH), spec=MIXED)
    text = score("The lungs are clear.", {"report": "The lungs are clear."}, "set/report", spec=MIXED)
    assert list(box) == list(text) == KEYS
    assert all(type(value) is float for value in [*box.values(), *text.values()])
    assert (box["score"], box["acc"], box["box_soft_f1"], box["box_f1@0.5"]) == (0.75, 0.75, 1.0, 1.0)
    assert math.isnan(box["gleu"]) and math.isnan(text["box_soft_f1"])
    assert (text["score"], text["gleu"], text["answer_chars"], text["n_boxes"]) == (2.0, 1.0, 20.0, 0.0)


def test_weight_zero_is_logged_only(score):
    spec = {"grounding": [{"name": "box_iou", "weight": 0}, {"name": "box_soft_f1", "weight": 0.5}]}
    result = score(RIGHT, TRUTH, spec=spec)
    assert (result["score"], result["box_iou"]) == (0.5, 1.0)


def test_the_papers_figure_under_its_preset(score):
    truth = {"boxes": [[0.38, 0.47, 0.76, 0.62]]}
    assert score("[0.35, 0.51, 0.75, 0.64]", truth, preset="paper_grounding")["score"] == pytest.approx(0.747, abs=5e-4)
    assert score("nothing", {"boxes": []}, preset="paper_grounding")["score"] == 0.0
    assert score("nothing", {"boxes": []}, preset="quickstart")["score"] == 1.0


def test_the_task_comes_from_extra_info_or_the_end_of_the_data_source(score):
    assert score(RIGHT, TRUTH, "a/b/grounding", preset="quickstart")["score"] == 1.0
    assert score(RIGHT, TRUTH, "anything", {"task": "grounding"}, preset="quickstart")["score"] == 1.0


def test_what_verl_adds_is_ignored(score):
    info = {"id": "a", "num_turns": 2, "rollout_reward_scores": {}, "thinking": False, "split": "val", "index": 3}
    more = {"reward_router_address": "host:1", "reward_model_tokenizer": None}
    assert score(RIGHT, TRUTH, extra_info=info, preset="quickstart", **more)["score"] == 1.0


@pytest.mark.parametrize(
    ("answer", "thinking", "score_", "format_ok", "model_failed", "n_boxes", "n_invalid"),
    [
        (RIGHT, False, 1.0, 1, 0, 1, 0),
        ("<think>[0, 0, 1, 1]</think>" + RIGHT, True, 1.0, 1, 0, 1, 0),
        ("<think>" + RIGHT, True, 0.0, 0, 1, 0, 0),
        ("", False, 0.0, 0, 1, 0, 0),
        ("[0.1, 0.2, 0.5", False, 0.0, 0, 1, 0, 0),
        ("No such finding.", False, 0.0, 1, 0, 0, 0),
        ("[0.5, 0.5, 0.1, 0.6]", False, 0.0, 0, 0, 0, 1),
        (RIGHT + "[0.5, 0.5, 0.1, 0.6]", False, 2 / 3, 1, 0, 1, 1),
    ],
)
def test_flags(score, answer, thinking, score_, format_ok, model_failed, n_boxes, n_invalid):
    result = score(answer, TRUTH, extra_info={"thinking": thinking}, preset="quickstart")
    assert result["score"] == pytest.approx(score_)
    flags = [result[key] for key in ("format_ok", "model_failed", "n_boxes", "n_invalid_boxes")]
    assert flags == [format_ok, model_failed, n_boxes, n_invalid]


def test_an_unreadable_answer_is_no_way_to_say_that_there_is_nothing(score):
    assert score("[0.1, 0.2", {"boxes": []}, preset="quickstart")["score"] == 0.0


@pytest.mark.parametrize(
    ("answer", "reward_"),
    [
        ('[{"x1": 0.1, "y1": 0.2, "x2": 0.3, "y2": 0.4}]', 0.0),
        ("x1=0.1, y1=0.2, x2=0.3, y2=0.4", 0.0),
        ("<loc0102><loc0204><loc0307><loc0409>", 0.0),
        ("located at [", 0.0),
        ("I'm sorry, I can't help with that.", 0.0),
        ("The heart is large.", 0.0),
        ('{"bbox_2d": []}', 1.0),
        ("No nodule, 01/02/2023 10:30.", 1.0),
        ("There is no such finding.", 1.0),
    ],
)
def test_what_an_answer_for_an_empty_film_earns(score, answer, reward_):
    result = score(answer, {"boxes": []}, preset="quickstart")
    assert (result["score"], result["model_failed"]) == (reward_, float(reward_ == 0.0 and not result["n_boxes"]))


def test_a_spec_may_take_any_words_for_nothing(score):
    spec = {"grounding": [{"name": "box_iou"}], "answer": {"nothing": "any"}}
    assert score("Kein Befund.", {"boxes": []}, spec=spec)["score"] == 1.0
    assert score("[0.1, 0.2", {"boxes": []}, spec=spec)["score"] == 0.0


@pytest.mark.parametrize(
    ("answer", "thinking", "expected"),
    [
        ("[+0.1, 0.2, 0.5, 0.6]", False, 0.0),
        ("[.1, 0.2, 0.5, 0.6]", False, 0.0),
        ("[0.1, 0.2, 0.5, 0.6, ]", False, 0.0),
        ("(0.1, 0.2), (0.5, 0.6)", False, 0.0),
        ("[\u0660.\u0661, 0.2, 0.5, 0.6]", False, 1.0),
        ("[1e-1, 0.2, 5E-1, 0.6]", False, 1.0),
        (f"hm</THINK>{RIGHT}", True, 1.0),
        (f"hm</Think> no </think>{RIGHT}", True, 1.0),
    ],
)
def test_the_preset_of_the_paper_reads_what_the_released_code_reads(score, answer, thinking, expected):
    result = score(answer, TRUTH, extra_info={"thinking": thinking}, preset="paper_grounding")
    assert result["score"] == pytest.approx(expected)


def test_ground_truth_with_arrays_from_parquet(score):
    truth = {"boxes": np.array([[0.1, 0.2, 0.5, 0.6]]), "labels": np.array(["nodule"], dtype=object)}
    nested = {"boxes": np.array([np.array([0.1, 0.2, 0.5, 0.6], dtype=np.float32), None], dtype=object)[:1]}
    info = {"thinking": np.bool_(False)}
    for stored in (truth, nested):
        assert score(RIGHT, stored, extra_info=info, preset="quickstart")["score"] == pytest.approx(1.0)


def test_a_row_that_cannot_be_scored_is_counted_with_its_cause(score):
    with pytest.raises(DataError):
        score("clear", {"report": 3}, "a/report", preset="paper_report")
    counted = counts()[ROWS]
    assert (counted.samples, counted.failures) == (1, 1) and "correct this row" in next(iter(counted.causes))


def test_the_preset_of_the_paper_takes_the_first_end_of_thinking(score):
    text = f"<think></think>{RIGHT}</think>"
    assert score(text, TRUTH, extra_info={"thinking": True}, preset="paper_grounding")["score"] == pytest.approx(1.0)
    assert score(text, TRUTH, extra_info={"thinking": True}, preset="quickstart")["score"] == 0.0


@pytest.mark.parametrize(
    ("box_format", "answer", "frame"),
    [
        ("qwen3vl", '[{"bbox_2d": [100, 200, 500, 600], "label": "x"}]', None),
        ("qwen25vl", '[{"bbox_2d": [10, 40, 50, 120], "label": "x"}]', [100, 200]),
        ("pixel", "[64, 96, 320, 288]", None),
    ],
)
def test_box_formats(score, box_format, answer, frame):
    info = {"box_format": box_format, "width": 640, "height": 480}
    truth = TRUTH | ({"frame": frame} if frame else {})
    assert score(answer, truth, extra_info=info, preset="quickstart")["score"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra_info": {"id": "p7", "box_format": "pixel"}}, "'p7': box format pixel needs width and height"),
        (
            {"extra_info": {"box_format": "qwen25vl", "width": 640, "height": 480}},
            "qwen25vl needs frame in ground_truth",
        ),
        ({"ground_truth": TRUTH | {"frame": [0, 9]}}, "frame must be width and height in pixels"),
        ({"extra_info": {"id": "p7", "box_format": "pixel", "width": 0, "height": 9}}, "needs width and height"),
        ({"extra_info": {"thinking": "false"}}, "thinking must be true or false, got 'false'"),
        ({"extra_info": {"thinking": 0}}, "thinking must be true or false, got 0"),
        ({"extra_info": {"box_format": "pixel", "width": math.inf, "height": "x"}}, "needs width and height"),
        ({"extra_info": {"box_format": "radvml"}}, "did you mean 'radvlm'"),
        ({"extra_info": {"task": "vqa"}}, "unknown task 'vqa'"),
        ({"extra_info": {"task": ["grounding"]}}, "unknown task"),
        ({"extra_info": {"task": "report"}, "preset": "paper_grounding"}, "no rewards for task report"),
        ({"data_source": "demo"}, "data source 'demo', id ''.*unknown task 'demo'"),
        ({"ground_truth": "{"}, "ground_truth is not JSON"),
        ({"ground_truth": "[" * 100_000}, "ground_truth is not JSON"),
        ({"ground_truth": "[]"}, "must be a JSON object"),
        ({"ground_truth": None}, "ground_truth is not JSON"),
        ({"ground_truth": {}}, "needs boxes"),
        ({"ground_truth": {"boxes": 3}}, "needs boxes"),
        ({"ground_truth": {"boxes": [[0.1, 0.2, 0.5]]}}, r"\[0.1, 0.2, 0.5\] is not four finite numbers"),
        ({"ground_truth": {"boxes": [["a", 0.2, 0.5, 0.6]]}}, "is not four finite numbers"),
        ({"ground_truth": {"boxes": [[0.5, 0.2, 0.1, 0.6]]}}, "needs x1 < x2 and y1 < y2"),
        ({"ground_truth": {"boxes": [[0.5, 0.2, 0.1, 0.6], [0, 0, 2, 1]]}}, "x1 < x2 .*; .*leaves the image"),
        ({"ground_truth": {"boxes": [], "labels": ["a"]}}, "0 boxes, but labels"),
        ({"data_source": "a/report", "ground_truth": {"report": "  "}}, "needs a non-empty report"),
        ({"data_source": "a/report", "ground_truth": {"boxes": []}}, "needs a non-empty report"),
        ({"solution_str": None}, "must be a text, got None"),
    ],
)
def test_bad_rows_are_refused_by_name(score, change, message):
    row = {"solution_str": RIGHT, "ground_truth": TRUTH, "preset": "quickstart"} | change
    with pytest.raises(DataError, match=message):
        score(**row)


def test_without_a_spec(score):
    with pytest.raises(UsageError, match="exactly one of spec and preset"):
        score(RIGHT, TRUTH)


@pytest.fixture
def toy(scratch_registry):
    """Register a report reward of range -1 to 1 that does what the function says; give its spec."""

    def register(function, **arguments):
        reward("toy", task="report", range=(-1.0, 1.0), **arguments)(function)
        return of_rewards(["toy"])

    return register


def report(text, sample_id="p7"):
    return Rollout("set/report", text, {"report": "clear"}, {"id": sample_id})


def fail(prediction, reference):
    raise TimeoutError("no answer in 5 s")


@pytest.mark.parametrize(
    ("function", "cause"),
    [
        (fail, "TimeoutError('no answer in 5 s')"),
        (lambda prediction, reference: math.nan, "returned nan, outside its range -1.0 to 1.0"),
        (lambda prediction, reference: math.inf, "returned inf"),
        (lambda prediction, reference: 1.01, "returned 1.01"),
        (lambda prediction, reference: None, "returned None, which is not a number"),
    ],
)
def test_a_failing_scorer_is_never_a_reward(toy, function, cause):
    (failure,) = score_batch([report("text")], toy(function))
    assert isinstance(failure, ScorerUnavailable)
    assert str(failure).startswith(f"reward 'toy' failed on sample 'p7': {cause}")


def test_compute_score_raises_it(score, toy):
    toy(fail)
    with pytest.raises(ScorerUnavailable, match="'toy' failed on sample 'p7'") as caught:
        score("x", {"report": "y"}, "set/report", {"id": "p7"}, spec={"report": [{"name": "toy"}]})
    assert isinstance(caught.value.__cause__, TimeoutError)


def test_rounding_errors_are_moved_into_the_range(toy):
    (result,) = score_batch([report("text")], toy(lambda prediction, reference: 1 + 1e-9))
    assert result["toy"] == 1.0


def test_a_failing_model_gets_the_worse_end_and_no_scorer_is_asked(toy):
    (result,) = score_batch([report("  ")], toy(fail))
    assert (result["toy"], result["score"], result["model_failed"], result["format_ok"]) == (-1.0, -1.0, 1.0, 0.0)
    (result,) = score_batch([report("")], toy(fail, higher_is_better=False))
    assert result["toy"] == 1.0


def test_wrong_use_inside_a_reward_stays_wrong_use(scratch_registry):
    def picky(prediction, reference):
        raise UsageError("no weights here")

    for name, batched in (("alone", False), ("together", True)):
        reward(name, task="report", range=(0, 1), batched=batched)(picky)
        with pytest.raises(UsageError, match="no weights here"):
            score_batch([report("text")], of_rewards([name]))


def test_a_batched_reward_is_called_with_what_it_applies_to(toy):
    calls = []

    def lengths(predictions, references, extra_info):
        calls.append((predictions, references, [info["id"] for info in extra_info]))
        return [len(text) / 10 for text in predictions]

    spec = toy(lengths, batched=True)
    bad = Rollout("set/report", "x", {}, {})
    results = score_batch([report("abc", 1), bad, report("", 2), report("abcde", 3)], spec)
    assert calls == [(["abc", "abcde"], ["clear", "clear"], [1, 3])]
    assert isinstance(results[1], DataError)
    assert [results[i]["toy"] for i in (0, 2, 3)] == [0.3, -1.0, 0.5]
    assert score_batch([bad], spec) and len(calls) == 1


@pytest.mark.parametrize("function", [lambda p, r: 0.0, lambda p, r: [math.nan for _ in p], fail])
def test_a_batched_reward_that_fails(toy, function):
    results = score_batch([report("a"), report("b")], toy(function, batched=True))
    assert [type(result) for result in results] == [ScorerUnavailable] * 2


def test_a_batched_reward_with_the_wrong_number_of_values_is_wrong_use(toy):
    spec = toy(lambda predictions, references: [0.0], batched=True)
    with pytest.raises(UsageError, match=r"test_scoring.py:\d+: batched reward 'toy' returned 1 values for 2 samples"):
        score_batch([report("a"), report("b")], spec)


def test_a_failure_of_one_reward_keeps_the_sample_from_the_next(scratch_registry):
    asked = []
    reward("first", task="report", range=(0, 1))(fail)
    reward("second", task="report", range=(0, 1))(lambda prediction, reference: asked.append(1) or 0.0)
    (failure,) = score_batch([report("a")], of_rewards(["first", "second"]))
    assert failure.reward == "first" and not asked


def test_a_samples_result_does_not_depend_on_the_others():
    spec = resolve(MIXED)
    samples = [Rollout("a/grounding", text, TRUTH, {}) for text in (RIGHT, "", "[1]", "[0.1, 0.2, 0.4, 0.6]", "none")]
    alone = [score_batch([sample], spec)[0] for sample in samples]
    assert repr(score_batch(samples, spec)) == repr(alone)
    assert score_batch([], spec) == []
