"""Hostile answers for every registered reward, also for those to come.

A reward that needs weights finds tiny ones where it looks by default. One that needs a server joins in by a fixture
called <name>_options in conftest.py, which gives the options with which it asks a server of the test. The environment
variable CXR_GRPO_HOSTILE raises the number of answers for each reward, say to 100000.
"""

import asyncio
import inspect
import math
import os
import random

import pytest

from reward_fns.registry import TASKS, get, names
from reward_fns.rollout import Rollout
from reward_fns.scoring import result_keys, score_batch, score_samples
from reward_fns.spec import resolve

PIECES = [
    "", " ", "\n", "\t", "\x00", "\x07", "\x1b[31m", "\u202e", "\u200b", "\u2028", "\ufeff", "\u0661",
    "\u0645\u0631\u062d", "\ud800", "\udfff", "\U0001f600", "e\u0301", "\u00bd", "\ufffd",
    "[", "]", "{", "}", '"', "\\", ",", ".", "%s", "{0}", "$x", "&amp;", "<skipped>", "-\n",
    "<think>", "</think>", "<think", "</s>", "<|assistant|>", "<|im_end|>",
    "[Matched Findings]: 9. ", "[Clinically Significant Errors]:\nNo errors.\n\n", "(a) x: 0.",
    "```json", '"bbox_2d":', '"label":', '{"bbox_2d": [1, 2, 3, 4], "label": "\\',
    "nan", "inf", "-", "1e308", "-1e308", "1e-320", "1e999", "0.5", "1", "1000", "9" * 400,
    "[0.1, 0.2, 0.3, 0.4]", "[0, 0, 1000, 1000]", "[0.1,0.2,", "[nan, 0, 1, 1]", "[0.9, 0.9, 0.1, 0.1]",
    "[-1e308, -1e308, 1e308, 1e308]", "[0,0,5e-324,1]", "zero point one", "(0.1,0.2),(0.3,0.4)",
    "No", "no ", "None", "The lungs are clear. ", "effusion", "a" * 600,
    "[nane1, 0, 1, 1]", "infe5", "Infinitye-999999999", "(1, 2), ", "[[1, 2], ", "\\]", "\\(", "'", "'label': 'x",
    "x1=", '{"x1": 1, "y1": 2,', '"x2": nan, "y2": 1e999}', "<loc0001>", "<box>", "01/02/2023 10:30 ", "\u0661.\u0665",
    "can't ",
]  # fmt: skip
REPORTS = ["The lungs are clear.", "Small left effusion. No pneumothorax.", "x", "\u202e \ud800", "word " * 300]
TRUTHS = {
    "report": [{"report": text} for text in REPORTS],
    "grounding": [
        {"boxes": []},
        {"boxes": [[0.1, 0.2, 0.5, 0.6]], "labels": ["nodule"]},
        {"boxes": [[0, 0, 1, 1], [0.2, 0.2, 0.3, 0.3], [0.2, 0.2, 0.3, 0.3]]},
    ],
}
for truth in TRUTHS["grounding"]:
    truth["frame"] = [644, 476]  # of the resized image, which box format qwen25vl needs
FORMATS = ["radvlm", "qwen3vl", "qwen25vl", "pixel"]
NAMES = names()  # while pytest collects: what other tests register is not meant
NEEDY = [name for name in NAMES if get(name).needs or inspect.iscoroutinefunction(get(name).function)]
ASKED = int(os.environ.get("CXR_GRPO_HOSTILE", "0"))
NEEDY_COUNT, FREE_COUNT = max(ASKED, 300), max(ASKED, 20_000)


def hostile(task, count, long_every):
    """Samples, of which some are 100 kB long."""
    rng = random.Random(task)
    for number in range(count):
        text = "".join(rng.choices(PIECES, k=rng.randrange(12)))
        if number % long_every == 0:
            text = (text or "[") * (100_000 // max(len(text), 1))
        info = {"thinking": rng.random() < 0.3, "box_format": rng.choice(FORMATS), "width": 640, "height": 480}
        yield Rollout(f"hostile/{task}", text[:100_000], rng.choice(TRUTHS[task]), info)


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
    samples = list(hostile(task, count=FREE_COUNT, long_every=10_000))
    score_all(samples, spec)
    alone_as_together(samples[1:200], spec)


@pytest.mark.parametrize("preset", ["paper_grounding", "quickstart"])
def test_hostile_answers_under_a_preset(preset):
    spec = resolve(preset=preset)
    for task in spec.tasks:
        samples = list(hostile(task, count=2000, long_every=1000))
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
    samples = list(hostile(task, count=NEEDY_COUNT, long_every=max(100, NEEDY_COUNT // 10)))
    score_all(samples, spec)
    alone_as_together(samples[1:40], spec)
