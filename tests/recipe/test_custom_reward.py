"""The drop-in example, as far as it goes without a training; test_e2e.py trains with it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "custom_reward"


def run(*command, **env):
    path = os.pathsep.join(filter(None, [str(EXAMPLE.parents[1]), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [*map(str, command)], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path} | env
    )


def test_the_reward_passes_the_check_and_its_doctests():
    done = run(sys.executable, "-m", "reward_fns", "check", EXAMPLE / "my_reward.py")
    assert done.returncode == 0, done.stdout + done.stderr
    done = run(sys.executable, "-m", "doctest", EXAMPLE / "my_reward.py")
    assert done.returncode == 0, done.stdout


def test_the_answers_score_as_the_readme_says():
    done = run(sys.executable, "-m", "reward_fns", "score", "--spec", EXAMPLE / "spec.yaml", "--file",
               EXAMPLE / "answers.jsonl")  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["sides"] for row in rows] == [1.0, 0.0, None]
    assert round(rows[1]["gleu"], 2) == 0.74


@pytest.mark.parametrize(
    ("place", "message"), [("/nowhere", "no finished quickstart in /nowhere"), ("", "no virtual environment")]
)
def test_what_the_script_misses_it_names(tmp_path, place, message):
    (tmp_path / "summary.json").write_text("{}")
    done = run("bash", EXAMPLE / "run.sh", QUICKSTART=place or str(tmp_path), VENV="/nowhere")
    assert done.returncode == 2
    assert message in done.stderr
    assert "examples/quickstart.sh" in done.stderr


def test_the_script_explains_itself():
    done = run("bash", EXAMPLE / "run.sh", "--help", QUICKSTART="/nowhere")
    assert done.returncode == 0
    assert "usage: bash examples/custom_reward/run.sh" in done.stdout
