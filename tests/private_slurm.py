"""A real Slurm on this machine, for tests: two nodes that are as separate as two machines, all in one folder.

Each node is a set of namespaces: a network interface and a name of its own, its own processes, /tmp and /dev/shm. A
bridge connects both with the controller, and with nothing else. Whatever ends this process ends them, too.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue", "scancel", "sinfo", "ip", "unshare")
NODES = ("n1", "n2")
BRIDGE = "cxrslurm"  # and the number of the process that made it
APART = ("unshare", "--net", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc")
# A job that is put back into the queue may start again when its old credential has expired, by default in two minutes.
CONF = """
ClusterName=test
SlurmctldHost={host}({net}.1)
SlurmctldPort={port}
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
KillWait=5
ReturnToService=2
SlurmdParameters=config_overrides
NodeName=n1 NodeAddr={net}.11 CPUs=8 RealMemory=8000
NodeName=n2 NodeAddr={net}.12 CPUs=8 RealMemory=8000
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
# Arguments: the node, its address, the folder, and what of /tmp both nodes see. A node's own name is that of 127.0.1.1,
# as Debian has it. Bash reaps what jobs leave behind.
NODE = """
node=$1 folder=$3
hostname "$node"
until ip link set eth0 up 2>/dev/null; do sleep 0.1; done
ip address add "$2/24" dev eth0
ip link set lo up
mkdir "$folder/tmp-$node"
mount -t tmpfs tmpfs "$folder/tmp-$node"
for path in "${@:4}"; do
  own=$folder/tmp-$node${path#/tmp}
  [[ $path != /tmp/* ]] || { mkdir -p "$own" && mount --rbind "$path" "$own"; }
done
mount --rbind "$folder/tmp-$node" /tmp
mount -t tmpfs tmpfs /dev/shm
sed "s/.* $node$/127.0.1.1 $node/" "$folder/hosts" >"$folder/hosts-$node"
mount --bind "$folder/hosts-$node" /etc/hosts
mount --bind /dev/null /etc/resolv.conf
slurmd -D -N "$node" -f "$folder/slurm.conf" &
wait
"""


def missing() -> str | None:
    """Why no Slurm can be started here, None if it can."""
    if os.geteuid():
        return "Slurm's daemons need root"
    lacking = [program for program in PROGRAMS if not shutil.which(program)]
    if lacking:
        return f"no {', '.join(lacking)}: apt-get install slurm-wlm munge iproute2"
    trial = "ip link add cxr0 type bridge && ip link add cxr1 type veth peer name cxr2 && mount -t tmpfs tmpfs /tmp"
    done = subprocess.run([*APART, "sh", "-c", trial], capture_output=True, text=True)
    return f"no namespaces for Slurm's nodes: {done.stderr.strip()}" if done.returncode else None


@contextlib.contextmanager
def cluster(folder: Path, shared: Sequence[Path]) -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    """Run Slurm with the nodes n1 and n2 of 8 CPUs each.

    Yields the environment of its commands, and each node by what /proc/ID/ns/pid is of its processes. The nodes see all
    files but those in /tmp, of which they see the folders ``shared``; one of them holds ``folder``. Jobs that are left
    at the end die with the nodes.
    """
    for name in ("state", *(f"spool-{node}" for node in NODES)):
        (folder / name).mkdir(parents=True)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    conf = folder / "slurm.conf"
    env = {**os.environ, "SLURM_CONF": str(conf)}
    env.pop("TMPDIR", None)
    places = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "log", "pid", "seed")]
    with contextlib.ExitStack() as stack:
        net = stack.enter_context(_network())
        conf.write_text(CONF.format(folder=folder, host=_host(), net=net, port=_free_port(f"{net}.1")))
        (folder / "cgroup.conf").write_text("")
        addresses = {"localhost": "127.0.0.1", _host(): f"{net}.1", "n1": f"{net}.11", "n2": f"{net}.12"}
        (folder / "hosts").write_text("".join(f"{address} {name}\n" for name, address in addresses.items()))

        def start(*command: str) -> int:
            output = stack.enter_context((folder / f"{command[0]}.out").open("ab"))
            streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output}
            # The kernel ends it when this process ends.
            daemon = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *command], env=env, **streams)
            stack.callback(daemon.wait)
            stack.callback(daemon.kill)
            return daemon.pid

        start("munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *places)
        _until(lambda: (folder / "munge.socket").exists(), "munged", folder)
        start("slurmctld", "-D", "-i", "-f", str(conf))
        spaces = {}
        for number, node in enumerate(NODES):
            arguments = [node, addresses[node], str(folder), *map(str, shared)]
            apart = start(*APART, "bash", "-euc", NODE, "bash", *arguments)
            net_of = f"/proc/{apart}/ns/net"
            _until(lambda path=net_of: os.readlink(path) != os.readlink("/proc/self/ns/net"), node, folder)
            cable = f"cxr{number}-{os.getpid()}"
            _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", str(apart))
            _ip("link", "set", cable, "master", f"{BRIDGE}{os.getpid()}", "up")
            spaces[os.readlink(f"/proc/{apart}/ns/pid_for_children")] = node
        _until(lambda: _output(env, "sinfo", "-h", "-o", "%D %t") == "2 idle", "Slurm", folder)
        yield env, spaces


@contextlib.contextmanager
def _network() -> Iterator[str]:
    """A bridge of this machine with a free network, of which it has the address 1; yields its first three numbers."""
    for path in Path("/sys/class/net").glob(f"{BRIDGE}*"):  # of processes that were killed
        if not Path("/proc", path.name.removeprefix(BRIDGE)).exists():
            _ip("link", "delete", path.name)
    taken = _ip("-4", "-brief", "address")
    net = next(net for net in (f"10.77.{number}" for number in range(256)) if f"{net}." not in taken)
    name = f"{BRIDGE}{os.getpid()}"
    _ip("link", "add", name, "type", "bridge")
    try:
        _ip("address", "add", f"{net}.1/24", "dev", name)
        _ip("link", "set", name, "up")
        yield net
    finally:
        _ip("link", "delete", name)


def _ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


def _host() -> str:
    return socket.gethostname().partition(".")[0]


def _output(env: dict[str, str], *command: str) -> str:
    return subprocess.run(command, env=env, capture_output=True, text=True).stdout.strip()


def _until(ready, name: str, folder: Path) -> None:
    deadline = time.monotonic() + 60
    while not ready():
        if time.monotonic() > deadline:
            logs = [path for path in folder.iterdir() if path.suffix in (".log", ".out")]
            raise RuntimeError(f"{name} did not start: {[path.read_text()[-1000:] for path in logs]}")
        time.sleep(0.2)


def _free_port(address: str) -> int:
    """A port below the range that the system gives to outgoing connections, and free now."""
    for port in range(21000 + os.getpid() % 1000 * 5, 32000):
        with contextlib.suppress(OSError), socket.socket() as one:
            one.bind((address, port))
            return port
    raise RuntimeError("no free port")
