import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from recipe.cxr_grpo.running import locks, processes
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


def test_slurm_s_signal_to_all_processes_of_a_job_ends_none(tmp_path):
    code = "import os, signal; [os.kill(pid, signal.SIGUSR1) for pid in (os.getppid(), os.getpid())]; print('alive')"
    assert processes.run([sys.executable, "-c", code], log=tmp_path / "log") == 0
    assert "alive" in (tmp_path / "log").read_text()


def test_ray_folder_is_short_private_and_gone_afterwards(tmp_path):
    code = "import os, sys; os.path.isdir(sys.argv[1]) or sys.exit(1); print(sys.argv[1])"
    assert processes.run([sys.executable, "-c", code, "{RAY_TMP}"], log=tmp_path / "log") == 0
    folder = (tmp_path / "log").read_text().strip()
    assert len(folder) < 60
    assert not Path(folder).exists()


def test_a_process_that_has_named_itself_is_ended_too(tmp_path):
    """As vLLM's engines do: it overwrites the whole environment in /proc."""
    setproctitle = pytest.importorskip("setproctitle").__name__
    named = f"import {setproctitle}, sys, time; {setproctitle}.setproctitle('x' * 80); print('named', flush=True); "
    code = f"""
import os, subprocess, sys
daemon = subprocess.Popen([sys.executable, "-c", {named!r} + "time.sleep(600)"], start_new_session=True,
                          stdout=subprocess.PIPE)
assert daemon.stdout.readline() == b"named\\n"
open(sys.argv[1], "w").write(str(daemon.pid))
"""
    pid_file = tmp_path / "pid"
    assert processes.run([sys.executable, "-c", code, str(pid_file)], log=tmp_path / "log") == 0
    assert not alive(int(pid_file.read_text()))


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


@pytest.fixture
def killed(tmp_path):
    """Run a script under `processes.run` in a process that is then killed; returns the pids that the script wrote."""
    parents, folders = [], []

    def kill(script, *arguments, also_supervisor=False, lock=None):
        pid_file = tmp_path / "pids"
        code = f"""
import contextlib, sys
from pathlib import Path
from recipe.cxr_grpo.running import locks, processes
with contextlib.nullcontext() if {lock!r} is None else locks.lock(Path({lock!r}), "taken") as held:
    command = [sys.executable, "-c", {script!r}, {str(pid_file)!r}, *{arguments!r}]
    processes.run(command, log=Path({str(tmp_path / "log")!r}), held=[] if held is None else [held])
"""
        parents.append(subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": os.getcwd()}))
        wait_for(lambda: pid_file.exists() and pid_file.read_text().endswith("."), 500)
        (supervisor,) = psutil.Process(parents[-1].pid).children()
        if lock is not None:
            with pytest.raises(UsageError, match="taken"), locks.lock(Path(lock), "taken"):
                raise AssertionError("the lock was free during the run")
        folders.append(supervisor.cmdline()[4])
        parents[-1].kill()
        if also_supervisor:
            supervisor.kill()
        return [int(pid) for pid in pid_file.read_text().rstrip(".").split()]

    yield kill
    for parent in parents:
        parent.kill()
        parent.wait()
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)  # where nobody was left to do it


def wait_for(condition, seconds):
    deadline = time.time() + seconds
    while not condition() and time.time() < deadline:
        time.sleep(0.1)
    assert condition()


STAYS = """
import os, subprocess, sys, time
daemon = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
open(sys.argv[1], "w").write(f"{os.getpid()} {daemon.pid}.")
time.sleep(600)
"""
RAY = """
import os, sys, time
import psutil, ray
ray.init(address="local", num_cpus=2, include_dashboard=False, _temp_dir=sys.argv[2])
@ray.remote
class Worker:
    def pid(self):
        return os.getpid()
worker = Worker.remote()
pids = [os.getpid(), ray.get(worker.pid.remote())]
pids += [child.pid for child in psutil.Process().children(recursive=True)]
open(sys.argv[1], "w").write(" ".join(map(str, pids)) + ".")
time.sleep(600)
"""


def test_a_killed_launch_leaves_no_process_and_its_lock_is_held_until_they_are_gone(killed, tmp_path):
    path = tmp_path / "lock"
    pids = killed(STAYS, lock=str(path))
    wait_for(lambda: not any(map(alive, pids)), 15)

    def free():
        try:
            with locks.lock(path, "taken"):
                return True
        except UsageError:
            return False

    wait_for(free, 5)


def test_the_lock_outlives_a_launch_whose_processes_go_on(tmp_path):
    path = tmp_path / "lock"
    code = f"""
import os, sys
from pathlib import Path
from recipe.cxr_grpo.running import locks, processes
stay = "import os, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); " \
       "print(os.getpid(), flush=True); time.sleep(600)"
with locks.lock(Path({str(path)!r}), "taken") as held:
    processes.run([sys.executable, "-c", stay], log=Path({str(tmp_path / "log")!r}), held=[held])
"""
    parent = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": os.getcwd()})
    wait_for(lambda: (tmp_path / "log").exists() and (tmp_path / "log").read_text().endswith("\n"), 30)
    pid = int((tmp_path / "log").read_text())
    parent.kill()
    parent.wait()
    time.sleep(2)
    assert alive(pid)  # it has 5 seconds to heed SIGTERM
    with pytest.raises(UsageError, match="taken"), locks.lock(path, "taken"):
        raise AssertionError("the lock is free while a process of the run is at work")
    wait_for(lambda: not alive(pid), 15)


def test_the_command_ends_even_if_its_supervisor_is_killed_too(killed):
    command, daemon = killed(STAYS, also_supervisor=True)
    try:
        wait_for(lambda: not alive(command), 10)
    finally:
        os.kill(daemon, signal.SIGKILL)  # nobody is left to look for it


def test_a_killed_launch_leaves_no_ray(killed):
    pytest.importorskip("ray")
    pids = killed(RAY, "{RAY_TMP}")
    assert len(pids) > 4  # driver, worker, raylet, GCS
    wait_for(lambda: not any(map(alive, pids)), 30)


def test_a_killed_launch_and_supervisor_leave_none_of_ray_s_workers(killed):
    pytest.importorskip("ray")
    driver, worker, *daemons = killed(RAY, "{RAY_TMP}", also_supervisor=True)
    try:
        wait_for(lambda: not alive(driver) and not alive(worker), 30)
    finally:
        for pid in filter(alive, daemons):  # Ray's agents end by themselves, but only after a minute
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_supervisor_ends_the_run(tmp_path, number):
    pid_file = tmp_path / "pids"

    def kill_supervisor():
        if pid_file.exists() and pid_file.read_text().endswith("."):
            for supervisor in psutil.Process().children():
                supervisor.send_signal(number)

    command = [sys.executable, "-c", STAYS, str(pid_file)]
    assert processes.run(command, log=tmp_path / "log", watch=kill_supervisor) == -number
    assert not any(alive(int(pid)) for pid in pid_file.read_text().rstrip(".").split())


def test_a_run_under_nohup_goes_on_when_the_terminal_closes(tmp_path):
    code = f"""
import sys
from pathlib import Path
from recipe.cxr_grpo.running import processes
sys.exit(processes.run([sys.executable, "-c", "import time; print('up', flush=True); time.sleep(3)"],
                       log=Path({str(tmp_path / "log")!r})))
"""
    command = ["nohup", sys.executable, "-c", code]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": os.getcwd()}, stderr=subprocess.DEVNULL)
    wait_for(lambda: (tmp_path / "log").exists() and "up" in (tmp_path / "log").read_text(), 30)
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=30) == 0


def test_what_a_run_writes_is_for_its_user_only(tmp_path):
    code = "import os, sys; os.makedirs(sys.argv[1] + '/validation'); open(sys.argv[1] + '/validation/0.jsonl', 'w')"
    old = os.umask(0o022)
    try:
        assert processes.run([sys.executable, "-c", code, str(tmp_path / "out")], log=tmp_path / "log") == 0
    finally:
        os.umask(old)
    for path in (tmp_path / "log", *(tmp_path / "out").rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path


def test_ray_may_open_its_folder_and_ours_stays_closed(tmp_path):
    code = "import os, sys; os.chmod(sys.argv[1], 0o777); print(oct(os.stat(sys.argv[1] + '/..').st_mode)[-3:])"
    assert processes.run([sys.executable, "-c", code, "{RAY_TMP}"], log=tmp_path / "log") == 0
    assert (tmp_path / "log").read_text() == "700\n"
