import sqlite3
import subprocess
import sys

import pytest

from data_prep.rewrite.asking import Journal
from reward_fns.errors import UsageError

ROW = {"where": "a.jsonl line 1", "model": "m"}


def test_answers_survive(tmp_path):
    path = tmp_path / "deep" / "journal.sqlite"
    with Journal(path) as journal:
        assert journal.answer("a") is None
        journal.add("a", "één\nline", **ROW)
        assert journal.answer("a") == "één\nline"
        journal.add("b", "", **ROW)
    assert path.stat().st_mode & 0o077 == 0  # it holds report texts
    with Journal(path) as journal:
        assert (journal.answer("a"), journal.answer("b")) == ("één\nline", "")
        journal.add("a", "later", **ROW)
        assert journal.answer("a") == "later"


def test_an_answer_is_safe_from_a_kill_as_soon_as_it_is_added(tmp_path):
    path = tmp_path / "journal.sqlite"
    code = """
import os, pathlib, signal, sys
from data_prep.rewrite.asking import Journal
journal = Journal(pathlib.Path(sys.argv[1]))
for name in "abc":
    journal.add(name, name * 9, where="", model="m")
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code, str(path)], timeout=120).returncode == -9
    with Journal(path) as journal:
        assert [journal.answer(name) for name in "abcd"] == ["a" * 9, "b" * 9, "c" * 9, None]


@pytest.mark.parametrize("content", [b'{"report": "mine"}\n', b'{"key": "ab", "answer": "of an older version"}\n' * 99])
def test_another_file_is_not_taken_for_a_journal(tmp_path, content):
    path = tmp_path / "data.jsonl"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="not a journal"):
        Journal(path)
    assert path.read_bytes() == content


def test_a_full_disk_is_an_error_that_names_the_journal(tmp_path):
    with Journal(tmp_path / "journal.sqlite") as journal:
        journal._database.execute("PRAGMA max_page_count = 3")
        with pytest.raises(OSError, match=r"journal\.sqlite: database or disk is full"):
            journal.add("a", "x" * 99999, **ROW)


def test_one_process_at_a_time(tmp_path):
    path = tmp_path / "journal.sqlite"
    code = "import pathlib, sys; from data_prep.rewrite.asking import Journal; Journal(pathlib.Path(sys.argv[1]))"
    with Journal(path):
        done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=120)
    assert "another process uses this journal" in done.stderr
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT count(*) FROM answers").fetchone() == (0,)
