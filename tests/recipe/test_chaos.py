"""Four rounds of chaos.py, which has the long form: minutes, on the CPU."""

import random

import pytest

pytest.importorskip("verl")
pytest.importorskip("vllm")

import chaos


@pytest.mark.e2e
def test_whatever_happens_to_a_run_it_goes_on_or_ends_and_says_why(tmp_path):
    kinds = ["engine", "launch", "checkpoint", "failures"]
    random.Random(0).shuffle(kinds)
    for played in chaos.play(kinds, 0, tmp_path):
        assert played.problems == [], str(played)
