"""A real Slurm on this machine, for tests: two nodes, everything in one folder, daemons as children."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue", "scancel", "sinfo")
# A job that is put back into the queue may start again when its old credential has expired, by default in two minutes.
CONF = """
ClusterName=test
SlurmctldHost={host}
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=2,batch_sched_delay=0
JobRequeue=1
MinJobAge=3600
ReturnToService=2
SlurmdParameters=config_overrides
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=8 RealMemory=8000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=8 RealMemory=8000
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why no Slurm can be started here, None if it can."""
    if os.geteuid():
        return "Slurm's daemons need root"
    lacking = [program for program in PROGRAMS if not shutil.which(program)]
    return f"no {', '.join(lacking)}: apt-get install slurm-wlm munge" if lacking else None


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Run Slurm with the nodes n1 and n2 of 8 CPUs each; yields the environment of its commands.

    Jobs that are left at the end are cancelled. Nothing outside ``folder`` is written, and no other Slurm is met.
    """
    conf = folder / "slurm.conf"
    for name in ("state", "spool-n1", "spool-n2"):
        (folder / name).mkdir(parents=True)
    conf.write_text(CONF.format(folder=folder, host=socket.gethostname().partition(".")[0], ports=_free_ports(3)))
    (folder / "cgroup.conf").write_text("")
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    env = {**os.environ, "SLURM_CONF": str(conf)}
    places = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "log", "pid", "seed")]
    with contextlib.ExitStack() as daemons:

        def start(*command: str) -> None:
            output = daemons.enter_context((folder / f"{command[0]}.out").open("ab"))
            streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output}
            daemon = subprocess.Popen(command, env=env, start_new_session=True, **streams)
            daemons.callback(_end, daemon)

        start("munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *places)
        _until(lambda: (folder / "munge.socket").exists(), "munged", folder)
        start("slurmctld", "-D", "-i", "-f", str(conf))
        for node in ("n1", "n2"):
            start("slurmd", "-D", "-N", node, "-f", str(conf))
        _until(lambda: _output(env, "sinfo", "-h", "-o", "%D %t") == "2 idle", "Slurm", folder)
        daemons.callback(_end_jobs, env)
        yield env


def _end_jobs(env: dict[str, str]) -> None:
    for job in _output(env, "squeue", "-h", "-o", "%i").split():
        _output(env, "scancel", job)
    deadline = time.monotonic() + 60
    while _output(env, "squeue", "-h") and time.monotonic() < deadline:
        time.sleep(0.5)


def _output(env: dict[str, str], *command: str) -> str:
    return subprocess.run(command, env=env, capture_output=True, text=True).stdout.strip()


def _until(ready, name: str, folder: Path) -> None:
    deadline = time.monotonic() + 60
    while not ready():
        if time.monotonic() > deadline:
            logs = [path for path in folder.iterdir() if path.suffix in (".log", ".out")]
            raise RuntimeError(f"{name} did not start: {[path.read_text()[-1000:] for path in logs]}")
        time.sleep(0.2)


def _end(daemon: subprocess.Popen) -> None:
    daemon.terminate()
    try:
        daemon.wait(20)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


def _free_ports(count: int) -> list[int]:
    """Ports below the range that the system gives to outgoing connections, and free now."""
    found: list[int] = []
    for port in range(21000 + os.getpid() % 1000 * 5, 32000):
        with contextlib.suppress(OSError), socket.socket() as one:
            one.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            break
    return found
