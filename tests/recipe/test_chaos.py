"""Four rounds of chaos.py, all on one run; the script has the long form: minutes, on the CPU."""

import random

import pytest

pytest.importorskip("verl")
pytest.importorskip("vllm")

import chaos


@pytest.mark.e2e
@pytest.mark.vllm
def test_whatever_happens_to_a_run_it_goes_on_or_ends_and_says_why(tmp_path):
    kinds = ["engine", "launch", "checkpoint", "failures"]
    random.Random(0).shuffle(kinds)
    (played,) = chaos.play(kinds, 0, tmp_path, together=4)
    assert played.problems == [], str(played)
