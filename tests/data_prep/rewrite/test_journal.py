import json
import subprocess
import sys

import pytest

from data_prep.rewrite.journal import Journal
from reward_fns.errors import UsageError


def test_answers_survive(tmp_path):
    path = tmp_path / "deep" / "journal.jsonl"
    with Journal(path) as journal:
        assert journal.answer("a") is None
        journal.add("a", "één\nline", model="m")
        assert journal.answer("a") == "één\nline"
        journal.add("b", "")
    with Journal(path) as journal:
        assert (journal.answer("a"), journal.answer("b"), journal.unreadable) == ("één\nline", "", 0)
        journal.add("a", "later")
        assert journal.answer("a") == "later"
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == ["a", "b", "a"]


@pytest.mark.parametrize("cut", [1, 10, 25])
def test_a_line_that_a_kill_cut_off_is_asked_again(tmp_path, cut):
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.add("a", "first")
        journal.add("b", "second")
    path.write_bytes(path.read_bytes()[:-cut])
    with Journal(path) as journal:
        assert (journal.answer("a"), journal.answer("b")) == ("first", None)
        journal.add("b", "again")
    with Journal(path) as journal:
        assert (journal.answer("b"), journal.unreadable) == ("again", 0)


def test_damage_in_the_middle_is_counted_and_kept(tmp_path):
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.add("a", "first")
    with path.open("ab") as file:
        file.write(b'\xff\n{"answer": "no key"}\n[]\n')
    with Journal(path) as journal:
        journal.add("b", "second")
        assert (journal.answer("a"), journal.answer("b"), journal.unreadable) == ("first", "second", 3)
    assert len(path.read_bytes().splitlines()) == 5


def test_another_file_is_not_taken_for_a_journal(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text('{"report": "mine"}\n')
    with pytest.raises(UsageError, match="not a journal"):
        Journal(path)
    assert path.read_text() == '{"report": "mine"}\n'


def test_one_process_at_a_time(tmp_path):
    path = tmp_path / "journal.jsonl"
    code = "import pathlib, sys; from data_prep.rewrite.journal import Journal; Journal(pathlib.Path(sys.argv[1]))"
    with Journal(path):
        done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=120)
    assert "another process is writing to this journal" in done.stderr
