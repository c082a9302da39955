import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from recipe.cxr_grpo.running import locks
from reward_fns.errors import UsageError


@pytest.fixture
def open_folder():
    """A folder that every user can write to; pytest's own are closed to others."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o1777)
        yield Path(folder)


def test_a_lock_is_for_one_process_at_a_time(tmp_path):
    path = tmp_path / "lock"
    code = f"""
import time
from pathlib import Path
from recipe.cxr_grpo.running import locks
with locks.lock(Path({str(path)!r}), "two at once"):
    print("in", flush=True)
    time.sleep(600)
"""
    env = os.environ | {"PYTHONPATH": os.getcwd()}
    other = subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "in\n"
        with pytest.raises(UsageError, match="two at once"), locks.lock(path, "two at once"):
            raise AssertionError("both are in")
        other.kill()
        other.wait()
        with locks.lock(path, "two at once"):
            pass
    finally:
        other.kill()


def test_the_next_user_can_lock_what_a_user_of_umask_077_made(tmp_path):
    path = tmp_path / "lock"
    old = os.umask(0o077)
    try:
        with locks.lock(path, "taken"):
            assert path.stat().st_mode & 0o777 == 0o644
        path.chmod(0o600)  # as an older version left it
        with locks.lock(path, "taken"):
            assert path.stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(old)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_a_lock_of_another_user_is_taken_and_one_that_is_closed_is_named(open_folder):
    path = open_folder / "lock"
    path.touch(0o644)
    code = f"""
import os
from pathlib import Path
from recipe.cxr_grpo.running import locks
os.setuid(12345)
with locks.lock(Path({str(path)!r}), "taken") as held:
    print("held", held is not None)
"""
    run = [sys.executable, "-c", code]
    env = os.environ | {"PYTHONPATH": os.getcwd()}
    done = subprocess.run(run, env=env, capture_output=True, text=True)
    assert done.stdout == "held True\n", done.stderr
    path.chmod(0o600)
    done = subprocess.run(run, env=env, capture_output=True, text=True)
    assert f"UsageError: {path} can't be used as a lock: Permission denied. Ask its owner" in done.stderr


def test_neither_a_fifo_nor_a_link_to_another_file_is_taken_for_a_lock(tmp_path):
    fifo, link, other = tmp_path / "fifo", tmp_path / "link", tmp_path / "other"
    os.mkfifo(fifo)
    other.write_text("mine")
    other.chmod(0o600)
    link.symlink_to(other)
    for path, why in ((fifo, "no plain file"), (link, "a symbolic link")):
        with pytest.raises(UsageError, match=why), locks.lock(path, "taken"):
            raise AssertionError("taken")
    assert (other.read_text(), other.stat().st_mode & 0o777) == ("mine", 0o600)
