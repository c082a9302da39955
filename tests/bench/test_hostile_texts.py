import logging

import pytest
from bench.bench_hostile import main
from bench.hostile_texts import LONGEST, answers

from reward_fns.conventions import Convention


@pytest.fixture(autouse=True)
def own_logger(monkeypatch):
    monkeypatch.setattr(logging.getLogger("reward_fns.rollout"), "handlers", [])


@pytest.mark.parametrize("task", ["report", "grounding"])
def test_the_same_seed_makes_the_same_answers(task):
    made, again, other = (list(answers(3000, seed, task=task)) for seed in (1, 1, 2))
    assert made == again != other
    kinds = {answer.kind for answer in made}
    assert {"pieces", "mutated_boxes", "json", "unicode", "bytes"} <= kinds and len(kinds) > 5
    assert max(len(answer.rollout.solution_str) for answer in made) <= LONGEST
    assert sum(kind.startswith("long") for kind in (answer.kind for answer in made)) == 3


def test_a_sound_reader_passes(capsys):
    assert main(["--count", "400"]) == 0
    said = capsys.readouterr().out
    assert said.count("200 answers, 0 exceptions, 0 non-finite, 0 key changes, 0 out of range") == 2
    assert said.count("slowest reading") == 2


def test_a_defect_is_found(monkeypatch, capsys):
    monkeypatch.setattr(Convention, "parse", lambda self, text, frame, **more: float(text[:3]))
    assert main(["--count", "400"]) == 1
    said = capsys.readouterr().out
    assert "0 exceptions, 0 non-finite" in said and "first of exceptions: " in said and "could not convert" in said
