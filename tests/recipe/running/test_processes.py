import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from recipe.cxr_grpo.running import processes
from reward_fns.errors import UsageError

# A child that leaves a grandchild behind in a session of its own, as Ray's daemons do.
DAEMON = """
import subprocess, sys
daemon = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
open(sys.argv[1], "w").write(str(daemon.pid))
"""


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_what_the_command_leaves_behind_is_ended(tmp_path):
    pid_file = tmp_path / "pid"
    status = processes.run([sys.executable, "-c", DAEMON, str(pid_file)], log=tmp_path / "log")
    assert status == 0
    assert not alive(int(pid_file.read_text()))


def test_status_output_and_environment_of_the_command(tmp_path):
    code = "import os, sys; print(os.environ['GIVEN']); sys.exit(7)"
    assert processes.run([sys.executable, "-c", code], log=tmp_path / "log", env={"GIVEN": "hello"}) == 7
    assert "hello" in (tmp_path / "log").read_text()


def test_ray_folder_is_short_private_and_gone_afterwards(tmp_path):
    code = "import os, sys; os.path.isdir(sys.argv[1]) or sys.exit(1); print(sys.argv[1])"
    assert processes.run([sys.executable, "-c", code, "{RAY_TMP}"], log=tmp_path / "log") == 0
    folder = (tmp_path / "log").read_text().strip()
    assert len(folder) < 60
    assert not Path(folder).exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing(tmp_path, number):
    pid_file = tmp_path / "pid"
    code = f"""
import sys
from pathlib import Path
from recipe.cxr_grpo.running import processes
stay = {DAEMON!r} + "\\nimport time; time.sleep(600)"
try:
    processes.run([sys.executable, "-c", stay, {str(pid_file)!r}], log=Path({str(tmp_path / "log")!r}))
except KeyboardInterrupt:
    sys.exit(130)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": os.getcwd()})
    deadline = time.time() + 30
    while not (pid_file.exists() and pid_file.read_text()) and time.time() < deadline:
        time.sleep(0.1)
    parent.send_signal(number)
    try:
        assert parent.wait(timeout=30) == 130
    finally:
        parent.kill()
    assert not alive(int(pid_file.read_text()))


def test_a_place_is_for_one_process_at_a_time(tmp_path):
    name = f"cxr-grpo-test-{os.getpid()}"
    code = f"""
import time
from recipe.cxr_grpo.running import processes
with processes.machine_lock({name!r}, "two at once"):
    print("in", flush=True)
    time.sleep(600)
"""
    env = os.environ | {"PYTHONPATH": os.getcwd()}
    other = subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "in\n"
        with pytest.raises(UsageError, match="two at once"), processes.machine_lock(name, "two at once"):
            raise AssertionError("both are in")
        other.kill()
        other.wait()
        with processes.machine_lock(name, "two at once"):
            pass
    finally:
        other.kill()
        Path(f"/tmp/{name}.lock").unlink()
