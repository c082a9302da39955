import json
import os
import subprocess
import sys
import tempfile
import time
from types import SimpleNamespace

import pytest

pytest.importorskip("ray")

from recipe.cxr_grpo.plugin import monitor as module
from recipe.cxr_grpo.plugin.monitor import Monitor, Peer, RunStopped, alive, engine_is_dead
from recipe.cxr_grpo.records.heartbeat import FILE
from reward_fns.calling import Counts


@pytest.fixture
def monitor(tmp_path, monkeypatch):
    """A monitor that is driven by hand, with a clock of its own and without a process to end."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(module.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(module.os, "_exit", lambda status: clock.__setattr__("exit", status))
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.0)
    found = Monitor(tmp_path, lambda now: None)
    found.clock = clock
    return found


def after(monitor, seconds):
    monitor.clock.now += seconds
    return monitor.hang()


def test_a_phase_may_take_ten_times_as_long_as_before(monitor):
    for step in (1, 2):
        monitor.enter("rollouts", step)
        monitor.clock.now += 30
        monitor.enter("update", step)
        monitor.clock.now += 2
    monitor.enter("rollouts", 3)
    assert after(monitor, 300) is None
    assert "no progress for 301 s in step 3, phase 'rollouts' (earlier ones took at most 30 s)" in after(monitor, 1)
    monitor.enter("update", 3)
    assert after(monitor, 60) is None  # never less than a minute
    assert after(monitor, 1)


def test_a_phase_that_never_ended_before_gets_half_an_hour(monitor):
    monitor.enter("checkpoint", 10)
    assert after(monitor, 1800) is None
    assert "it is the first of its kind" in after(monitor, 1)


def test_scored_rollouts_are_progress(monitor):
    monitor.enter("rollouts", 1)
    monitor.enter("rollouts", 2)
    for _ in range(10):
        assert after(monitor, 50) is None
        monitor.moved()
    monitor.enter("update", 2)
    assert monitor.longest["rollouts"] == 50


def test_the_heartbeat_says_where_the_run_is(monitor, tmp_path):
    monitor.enter("rollouts", 7)
    monitor.beat()
    beat = json.loads((tmp_path / FILE).read_text())
    assert (beat["step"], beat["phase"], beat["silence_limit"]) == (7, "rollouts", 1800.0)
    assert abs(beat["time"] - time.time()) < 60 and beat["pid"] > 0 and beat["host"] == os.uname().nodename


def test_a_heartbeat_that_cannot_be_written_is_no_reason_to_stop(monitor, tmp_path, capsys):
    monitor.folder = tmp_path / "file" / "folder"
    (tmp_path / "file").write_text("")
    monitor.beat()
    assert "the heartbeat can't be written" in capsys.readouterr().err


def test_a_cause_is_printed_raised_and_then_ends_the_process(monitor, monkeypatch, capsys):
    monitor.check()
    with pytest.raises(RunStopped, match="the disk is gone"):
        monitor.end("the disk is gone")
    monitor.stop("what follows from it")
    with pytest.raises(RunStopped, match="the disk is gone"):
        monitor.check()
    assert capsys.readouterr().err == "RUN STOPPED: the disk is gone\n"
    monkeypatch.setattr(module, "POLL_SECONDS", 0.0)
    monitor.run()
    assert monitor.clock.exit == 1


REAL = """
import os, signal, sys, time
import ray
from recipe.cxr_grpo.plugin import monitor as module

module.POLL_SECONDS, module.GRACE_SECONDS = 0.1, 1.0
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=sys.argv[1])

@ray.remote
class Server:
    def __init__(self): self.engine = type("Engine", (), {"errored": False})()
    def pid(self): return os.getpid()
    def lose(self): self.engine.errored = True
    def work(self, seconds): time.sleep(seconds)

server = Server.remote()
pid = ray.get(server.pid.remote())
found = module.Monitor(module.Path(sys.argv[1]), lambda now: None)
found.watch({"rollout server a": module.Peer(server, module.engine_is_dead)})
found.start()
busy = server.work.remote(1.0)
time.sleep(0.5)
found.check()  # a busy actor is no dead one
ray.get(busy)
os.kill(pid, signal.SIGKILL) if sys.argv[2] == "kill" else ray.get(server.lose.remote())
time.sleep(600)  # a trainer that hangs
"""


@pytest.mark.parametrize(
    ("how", "cause"), [("kill", "rollout server a died: "), ("engine", "the vLLM engine of rollout server a died")]
)
def test_a_dead_actor_or_engine_ends_a_process_that_hangs(how, cause):
    with tempfile.TemporaryDirectory(prefix="cxr-", ignore_cleanup_errors=True) as folder:  # short, for Ray's sockets
        command = [sys.executable, "-c", REAL, folder, how]
        done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 1, done.stderr
    assert f"RUN STOPPED: {cause}" in done.stderr


def test_an_actor_without_an_engine_is_alive():
    assert engine_is_dead(SimpleNamespace()) is False and alive(SimpleNamespace()) is None
    assert engine_is_dead(SimpleNamespace(engine=SimpleNamespace(errored=True))) is True


def test_counts_of_workers_reach_the_verdict(monitor, monkeypatch):
    seen = []
    monitor.verdict = lambda now: seen.append(now) or "too many"
    workers = [Counts(3), Counts(4, failures=2)]
    handles = [
        SimpleNamespace(__ray_call__=SimpleNamespace(remote=lambda _, c=count: {"gleu": c})) for count in workers
    ]
    monitor.watch({str(i): Peer(handle, lambda worker: None) for i, handle in enumerate(handles)})
    monkeypatch.setattr(module.ray, "wait", lambda refs, timeout: (refs, []))
    monkeypatch.setattr(module.ray, "get", lambda ref: ref)
    monkeypatch.setattr(module, "POLL_SECONDS", 0.0)
    monitor.run()
    assert seen == [{"gleu": Counts(7, failures=2)}] and monitor.cause == "too many"
