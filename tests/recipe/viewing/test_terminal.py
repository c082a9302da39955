import io
import sys

import pytest
from viewed import dumped, write_lines

from recipe.cxr_grpo.viewing import terminal


@pytest.fixture
def run(tmp_path):
    for step, score in ((0, 0.0), (5, 0.75)):
        rows = [
            dumped("a", "grounding", "[0.1, 0.2, 0.5, 0.6] and [0.7, 0.7, 0.8, 0.8]", score, box_iou=0.5),
            dumped("r", "report", "<think>a shadow</think>The [bold]heart[/bold]\x1b[2J", 0.25),
        ]
        write_lines(tmp_path / "validation" / f"{step}.jsonl", rows)
    return tmp_path


def test_a_pipe_gets_the_latest_answers_worst_first(run, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    terminal.view([run], 100, 0)
    said = capsys.readouterr().out
    assert said.index("step 5 · r") < said.index("step 5 · a")
    assert "step 0" not in said
    assert "The [bold]heart[/bold]\N{REPLACEMENT CHARACTER}[2J" in said
    assert "\x1b" not in said
    assert "IoU 1.00 hit" in said
    assert "a shadow" not in said


def test_a_user_goes_through_them(run, capsys, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stdin", Terminal("\n\np\nt\n/HEART\n/nothing has this\n/\nb\nq\n"))
    terminal.view([run], 100, 0)
    said = capsys.readouterr().out
    shown = [line.split(" · ")[3].split()[0] for line in said.splitlines() if " · step" in line]
    assert shown == ["r", "a", "a", "r", "r", "r", "r", "a"]
    assert said.count("a shadow") == 4  # after t, in three views of the report, and not before
    assert "No question has these words." in said
