"""Driver, libraries, GPUs and CPUs of this machine, against what the extra `gpu` and verl's actors need."""

import math
import os
import platform
import re
import subprocess
from typing import Any, NamedTuple

import psutil

from recipe.cxr_grpo.running.checks import own_ray
from reward_fns.engine.serving import TRAINER_CPUS, refusal
from reward_fns.settings import EngineOptions

DRIVER = 580  # of CUDA 13.0, for which torch 2.11's wheels are built
GLIBC = {"x86_64": (2, 31), "aarch64": (2, 34)}  # of the wheels of llguidance, and of tilelang
_OTHERS = 2  # CPUs: TransferQueue's controller, and one for actors that Ray places with a CPU and runs without


class Result(NamedTuple):
    """What a check found; `status` is pass, warn, fail or skip."""

    status: str
    found: str


ELSEWHERE = "look again in a job on a node of the run"


class Machine(NamedTuple):
    """A node, or a Slurm job's share of it: GiB of each GPU, NVIDIA's driver ("" for none), CPUs, GiB of memory."""

    gpus: list[float]
    driver: str
    cpus: int
    memory: float


def this_machine(*, on_host: bool) -> Machine | None:
    """The machine that this process runs on; None on a login node (no GPU, no Slurm job) of a run not ``on_host``."""
    query = ["nvidia-smi", "--query-gpu=driver_version,memory.total", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):  # not installed, or no driver that it can talk to
        lines = []
    gpus = [found for line in lines if (found := re.fullmatch(r"([\d.]+), (\d+)", line))]  # a broken one has no numbers
    if not gpus and not on_host and "SLURM_JOB_ID" not in os.environ:
        return None
    cpus = int(os.environ.get("SLURM_CPUS_ON_NODE") or len(os.sched_getaffinity(0)))
    share = int(os.environ.get("SLURM_MEM_PER_NODE") or cpus * int(os.environ.get("SLURM_MEM_PER_CPU") or 0))  # MiB
    memory = share / 1024 or psutil.virtual_memory().total / 2**30
    return Machine([int(gpu[2]) / 1024 for gpu in gpus], gpus[0][1] if gpus else "", cpus, memory)


def check_glibc() -> Result:
    """The C library against the wheels of the extra `gpu`: whether a container is needed."""
    found, arch = platform.libc_ver()[1], platform.machine()
    status = "pass" if tuple(map(int, re.findall(r"\d+", found))) >= GLIBC[arch] else "fail"
    return Result(status, f"{found or 'none'}; wheels for {arch} need {'.'.join(map(str, GLIBC[arch]))} or a container")


def check_driver(here: Machine | None) -> Result:
    """NVIDIA's driver against torch's CUDA."""
    if not here:
        return Result("skip", f"no GPU here, as on a login node; {ELSEWHERE}")
    status = "pass" if int(here.driver.partition(".")[0] or 0) >= DRIVER else "fail"
    return Result(status, f"{here.driver or 'none'}; torch's CUDA 13 needs {DRIVER}")


def check_gpus(here: Machine | None, wanted: int) -> Result:
    """The GPUs that torch sees against those that a run takes on each node."""
    import torch

    seen, there = torch.cuda.device_count(), len(here.gpus) if here else 0
    status = "pass" if seen >= wanted else "fail" if here or not torch.version.cuda else "skip"
    return Result(status, f"torch {torch.__version__} sees {seen} of {there}, the run takes {wanted} a node")


def check_flash_attn(model: Any) -> Result:
    """Whether flash-attn can be imported, or the settings of the model do without."""
    try:
        import flash_attn

        return Result("pass", flash_attn.__version__)
    except ImportError as error:  # also where it was built for another torch
        status = "warn" if model.override_config.get("attn_implementation") in ("sdpa", "eager") else "fail"
        return Result(status, f"{error}; sdpa is slower, and needs more memory for packed sequences")


def check_cpus(config: Any, here: Machine | None) -> Result:
    """The CPUs that verl's actors reserve on a node."""
    gpus, nodes = config.trainer.n_gpus_per_node, config.trainer.nnodes
    units = math.ceil(config.transfer_queue.backend.SimpleStorage.num_data_storage_units / nodes)
    need = TRAINER_CPUS * gpus + units + _OTHERS
    have = (own_ray(config) and config.ray_kwargs.ray_init.get("num_cpus")) or (here and here.cpus)
    status = "skip" if not have else "pass" if have >= need else "fail"
    sums = f"needs {need} a node: {TRAINER_CPUS} x {gpus} GPUs + {units} storage units + {_OTHERS} for other actors"
    return Result(status, f"{have}, {sums}" if have else f"{sums}; {ELSEWHERE}")


def check_scorers(config: Any, engine: EngineOptions, here: Machine | None) -> Result:
    """Whether scorer replicas in the run's Ray leave whole GPUs and CPUs for the trainer on every node."""
    nodes, gpus = config.trainer.nnodes, config.trainer.n_gpus_per_node
    node = {"GPU": float(len(here.gpus) if here else gpus), "CPU": float(here.cpus if here else math.inf)}
    if reason := refusal([node] * nodes, engine, [gpus] * nodes):
        return Result("fail", reason)
    return Result("pass", f"{engine.replicas} replicas of {engine.gpus:g} GPUs leave {gpus} whole GPUs on each node")
