import asyncio
import os
import subprocess
import sys
from pathlib import Path

import fake_openai
import hypothesis
import pytest

import reward_fns
from reward_fns import calling, registry, settings

# The same examples on every machine, without a time limit that a busy one would miss or a folder of past calling.
hypothesis.settings.register_profile("reward_fns", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("reward_fns")


judge_server = fake_openai.judge_server


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """Failed samples are tried again at once, and no failure of one test counts in another."""
    calling.forget()
    monkeypatch.setattr(settings.FailureRules, "pause", lambda self, retry: 0.0)
    yield
    calling.forget()


@pytest.fixture
def score():
    """compute_score, called synchronously, with a data source of grounding by default."""

    def call(solution_str, ground_truth, data_source="set/grounding", extra_info=None, **kwargs):
        return asyncio.run(reward_fns.compute_score(data_source, solution_str, ground_truth, extra_info, **kwargs))

    return call


@pytest.fixture
def scratch_registry(monkeypatch):
    """Rewards registered in this test, and specs that name them, are gone after it."""
    registry.names()
    monkeypatch.setattr("reward_fns.spec._resolved", {})
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))


@pytest.fixture
def command(tmp_path):
    """Run `python -m reward_fns` in an empty folder."""

    def run(*arguments, **kwargs):
        env = os.environ | {"PYTHONPATH": str(Path(reward_fns.__file__).parents[1])}
        return subprocess.run(
            [sys.executable, "-m", "reward_fns", *map(str, arguments)],
            cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300, **kwargs,
        )  # fmt: skip

    return run


@pytest.fixture
def green_options(judge_server):
    """Options of reward green for a judge whose counts depend on what it is asked."""

    def answer(prompt):
        matched, errors = len(prompt) % 5, prompt.count("a") % 4
        return f"[Clinically Significant Errors]:\n(a) Wrong: {errors}. x\n\n[Matched Findings]:\n{matched}. y"

    judge_server.answer = answer
    return {"base_url": judge_server.url}
