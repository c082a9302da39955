"""Hostile answers for every registered reward, also for those to come.

A reward that needs weights finds tiny ones where it looks by default. One that needs a server joins in by a fixture
called <name>_options in conftest.py, which gives the options with which it asks a server of the test. The environment
variable CXR_GRPO_HOSTILE raises the number of answers for each reward, say to 100000.
"""

import asyncio
import contextlib
import inspect
import json
import logging
import math
import os
import time

import pytest
from bench.hostile_texts import PIECES, TRUTHS, answers
from hypothesis import given
from hypothesis import settings as of_hypothesis
from hypothesis import strategies as st

from reward_fns.conventions import CONVENTIONS
from reward_fns.judge.client import UnusableAnswer
from reward_fns.judge.green import TOKENS, disarm, prompt, read_json, read_strict, read_upstream
from reward_fns.registry import TASKS, get, names
from reward_fns.rollout import ParsedRollout, Rollout, parse_rollout
from reward_fns.scoring import result_keys, score_batch, score_samples
from reward_fns.spec import resolve

NAMES = names()  # while pytest collects: what other tests register is not meant
NEEDY = [name for name in NAMES if get(name).needs or inspect.iscoroutinefunction(get(name).function)]
ASKED = int(os.environ.get("CXR_GRPO_HOSTILE", "0"))
NEEDY_COUNT, FREE_COUNT = max(ASKED, 300), max(ASKED, 10_000)


def hostile(task, count, long_every):
    return [answer.rollout for answer in answers(count, 0, task=task, long_every=long_every)]


def check(samples, results, spec, task):
    for sample, result in zip(samples, results, strict=True):
        assert isinstance(result, dict), f"{result} on {sample.solution_str[:300]!r}"
        for part in spec.tasks[task]:
            low, high = part.reward.range
            assert low <= result[part.reward.name] <= high
        assert all(type(value) is float and math.isfinite(value) for value in result.values())
        assert result["format_ok"] in (0.0, 1.0) and result["model_failed"] in (0.0, 1.0)
        assert list(result) == result_keys(spec)


def score_all(samples, spec, chunk=1000):
    async def run():
        for start in range(0, len(samples), chunk):
            part = samples[start : start + chunk]
            check(part, await score_samples(part, spec), spec, next(iter(spec.tasks)))

    asyncio.run(run())


def alone_as_together(samples, spec):
    together = score_batch(samples, spec)
    for sample, result in zip(samples, together, strict=True):
        (alone,) = score_batch([sample], spec)
        assert alone == pytest.approx(result, abs=1e-5)


@pytest.mark.parametrize("task", TASKS)
def test_hostile_answers_for_every_reward_without_weights(task):
    free = [name for name in NAMES if name not in NEEDY and task in get(name).tasks]
    assert {"gleu", "box_iou", "think_format"} & set(free)
    spec = resolve({task: [{"name": name} for name in free]})
    samples = hostile(task, count=FREE_COUNT, long_every=5000)
    score_all(samples, spec)
    alone_as_together(samples[1:200], spec)


@pytest.mark.parametrize("preset", ["paper_grounding", "quickstart"])
def test_hostile_answers_under_a_preset(preset):
    spec = resolve(preset=preset)
    for task in spec.tasks:
        samples = hostile(task, count=2000, long_every=1000)
        for result in score_batch(samples, spec):
            assert math.isfinite(result["score"]) and result["acc"] == result["score"]


@pytest.mark.parametrize("name", NEEDY)
def test_hostile_answers_for_a_reward_that_needs_something(name, request):
    if get(name).needs:
        request.getfixturevalue("text_models_in_cache")
        options = {}
    else:
        options = request.getfixturevalue(f"{name}_options")
    (task, *_) = get(name).tasks
    spec = resolve({task: [{"name": name, "options": options}], "failures": {"retries": 0}})
    samples = hostile(task, count=NEEDY_COUNT, long_every=max(100, NEEDY_COUNT // 10))
    score_all(samples, spec)
    alone_as_together(samples[1:40], spec)


# Any text, with lone surrogates, and texts that look like something to read.
CHARACTERS = st.text(st.characters(), max_size=60)
NUMBERS = st.one_of(st.floats().map(repr), st.integers(-(10**400), 10**400).map(str), st.sampled_from(PIECES))
QUADS = st.lists(NUMBERS, max_size=5).map(lambda numbers: f"[{', '.join(numbers)}]")
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), CHARACTERS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["bbox_2d", "label", "x1"]), inner),
)
FRAGMENTS = st.builds(lambda text, end: text[end // 2 : -end or None], VALUES.map(json.dumps), st.integers(0, 99))
DEEP = st.sampled_from(["[", "{", '{"a":', '{"label": "a", "b": {', "(1, 2), ", '"']).map(lambda text: text * 3000)
TEXTS = st.lists(st.one_of(CHARACTERS, QUADS, FRAGMENTS, DEEP, st.sampled_from(PIECES)), max_size=6).map("".join)


@pytest.mark.parametrize("task", TASKS)
@given(data=st.data())
@of_hypothesis(max_examples=200)
def test_no_text_raises_or_leaves_the_range(task, data):
    free = [name for name in NAMES if name not in NEEDY and task in get(name).tasks]
    spec = resolve({task: [{"name": name} for name in free]})
    info = {"thinking": data.draw(st.booleans()), "box_format": data.draw(st.sampled_from([*CONVENTIONS])),
            "width": 640, "height": 480}  # fmt: skip
    sample = Rollout(f"hostile/{task}", data.draw(TEXTS), data.draw(st.sampled_from(TRUTHS[task])), info)
    check([sample], score_batch([sample], spec), spec, task)


@given(TEXTS, TEXTS)
def test_a_prompt_of_any_texts_can_be_sent(candidate, reference):
    first, second = disarm(candidate), disarm(reference)
    assert disarm(first) == first and not set(first) & set("[]{}\n\x00")
    asked = prompt("{reference}|{candidate}|{mark}", second, first)
    assert len(asked.encode()) <= 2 * 4 * (3 * TOKENS + 300) + 14


@given(TEXTS)
def test_any_answer_of_a_judge_is_a_score_or_unusable(answer):
    assert 0.0 <= read_upstream(answer) <= 1.0
    for read in (read_strict, read_json):
        try:
            verdict = read(answer)
        except UnusableAnswer:
            continue
        assert verdict is None or 0.0 <= verdict.score(1.0) <= 1.0


@pytest.mark.parametrize("piece", ["\u0301\u0323", "\ufdfa", "\u202e ", "(a)", "(a):", "=", "1" * 99, "&amp;"])
def test_long_texts_take_no_more_than_linear_time(piece):
    text = (piece * 300_000)[:300_000]
    started = time.process_time()
    disarm(text)
    for read in (read_strict, read_json, read_upstream):
        with contextlib.suppress(UnusableAnswer):
            read(f"[Clinically Significant Errors]:\n{text}\n[Matched Findings]:\n{text}")
    (result,) = score_batch([Rollout("a/report", text, {"report": "Clear."}, {})], resolve(preset="quickstart"))
    assert math.isfinite(result["score"]) and time.process_time() - started < 20  # seconds; some took minutes


def test_a_defect_of_the_reader_is_the_models_floor_and_no_defect_of_the_row(monkeypatch, caplog):
    """Or a model that finds one could be rid of its own bad answers."""

    def broken(text, *arguments, **options):
        raise ValueError(f"could not convert string to float: {text}")

    monkeypatch.setattr("reward_fns.conventions.read_quads", broken)
    spec = resolve(preset="quickstart")
    sample = Rollout("a/grounding", "[0, 0, 1, 1]", TRUTHS["grounding"][1], {"id": "p7"})
    with caplog.at_level(logging.ERROR):
        assert isinstance(parse_rollout(sample, spec), ParsedRollout)
    assert "a defect of the reader of boxes" in caplog.text
    (result,) = score_batch([sample], spec)
    floor = sum(part.weight * part.reward.floor for part in spec.tasks["grounding"])
    assert (result["score"], result["model_failed"]) == (floor, 1.0)
