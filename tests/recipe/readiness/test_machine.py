import os
import sys
from types import SimpleNamespace

import pytest

pytest.importorskip("verl")
import torch

from recipe.cxr_grpo.readiness import machine
from recipe.cxr_grpo.running.checks import compose
from reward_fns.settings import EngineOptions

NODE = machine.Machine([80.0] * 8, "580.65.06", 64, 1000.0)


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Have `nvidia-smi` print these lines, or end with this status, outside a Slurm job."""
    for name in ("SLURM_JOB_ID", "SLURM_CPUS_ON_NODE", "SLURM_MEM_PER_NODE", "SLURM_MEM_PER_CPU"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    def install(*lines, status=0):
        script = tmp_path / "nvidia-smi"
        text = "\n".join(lines)
        script.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\nexit {status}\n")
        script.chmod(0o755)

    return install


def test_driver_and_memory_come_from_nvidia_smi(nvidia_smi):
    nvidia_smi("580.65.06, 81920", "580.65.06, 81559")
    found = machine.this_machine(on_host=False)
    assert found.driver == "580.65.06" and found.gpus == pytest.approx([80.0, 79.647], abs=0.001)
    assert found.cpus == len(os.sched_getaffinity(0)) and found.memory > 1


def test_a_slurm_job_has_its_share_of_a_node(nvidia_smi, monkeypatch):
    nvidia_smi("580.65.06, 81920")
    for name, value in {"SLURM_JOB_ID": "7", "SLURM_CPUS_ON_NODE": "12", "SLURM_MEM_PER_NODE": "65536"}.items():
        monkeypatch.setenv(name, value)
    found = machine.this_machine(on_host=False)
    assert (found.cpus, found.memory) == (12, 64.0)
    monkeypatch.delenv("SLURM_MEM_PER_NODE")
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "4096")
    assert machine.this_machine(on_host=False).memory == 48.0


def test_a_gpu_without_numbers_does_not_count(nvidia_smi):
    broken = "Unable to determine the device handle for GPU0000:01:00.0: Unknown Error"
    nvidia_smi(broken, "580.65.06, 81920", "580.65.06, [N/A]")
    found = machine.this_machine(on_host=False)
    assert (found.gpus, found.driver) == ([80.0], "580.65.06")


def test_without_a_gpu_the_run_s_machine_is_another_one_but_not_in_a_job(nvidia_smi, monkeypatch):
    nvidia_smi("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver", status=9)
    assert machine.this_machine(on_host=False) is None
    assert machine.this_machine(on_host=True).gpus == []
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    in_job = machine.this_machine(on_host=False)
    assert machine.check_driver(in_job).status == "fail" and machine.check_driver(None).status == "skip"


@pytest.mark.parametrize(("driver", "status"), [("580.65.06", "pass"), ("595.1", "pass"), ("575.57.08", "fail")])
def test_cuda_13_needs_driver_580(driver, status):
    result = machine.check_driver(NODE._replace(driver=driver))
    assert result.status == status and driver in result.found


@pytest.mark.parametrize(
    ("arch", "version", "status"),
    [
        ("x86_64", "2.31", "pass"),
        ("x86_64", "2.28", "fail"),
        ("x86_64", "", "fail"),  # musl, say
        ("aarch64", "2.34", "pass"),
        ("aarch64", "2.31", "fail"),
    ],
)
def test_an_old_glibc_needs_a_container(monkeypatch, arch, version, status):
    monkeypatch.setattr(machine.platform, "machine", lambda: arch)
    monkeypatch.setattr(machine.platform, "libc_ver", lambda: ("glibc", version))
    result = machine.check_glibc()
    assert result.status == status and f"wheels for {arch} need" in result.found


@pytest.mark.parametrize(
    ("here", "cuda", "seen", "status"),
    [(NODE, "13.0", 8, "pass"), (NODE, "13.0", 4, "fail"), (None, "13.0", 0, "skip"), (None, None, 0, "fail")],
)
def test_torch_must_see_as_many_gpus_as_a_run_takes(monkeypatch, here, cuda, seen, status):
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: seen)
    result = machine.check_gpus(here, 8)
    assert result.status == status and f"sees {seen} of {len(NODE.gpus) if here else 0}" in result.found


def test_without_flash_attn_the_config_must_do_without_it(monkeypatch):
    plain, sdpa = (SimpleNamespace(override_config=given) for given in ({}, {"attn_implementation": "sdpa"}))
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    assert machine.check_flash_attn(plain).status == "fail"
    assert machine.check_flash_attn(sdpa).status == "warn"
    monkeypatch.setitem(sys.modules, "flash_attn", SimpleNamespace(__version__="2.8.3"))
    assert machine.check_flash_attn(plain) == ("pass", "2.8.3")


def test_ray_s_actors_reserve_three_cpus_a_gpu_and_those_of_transfer_queue():
    config = compose("grpo", ["profile=node_8x80g"])
    need = 3 * 8 + 8 + 2
    assert machine.check_cpus(config, NODE._replace(cpus=need)).status == "pass"
    few = machine.check_cpus(config, NODE._replace(cpus=need - 1))
    assert few.status == "fail" and "33, needs 34 a node: 3 x 8 GPUs + 8 storage units" in few.found
    assert machine.check_cpus(config, None).status == "skip"


def test_storage_units_are_spread_over_nodes():
    paper = compose("grpo", ["profile=paper_32xgh200"])  # 16 units on 8 nodes of 4 GPUs
    assert machine.check_cpus(paper, NODE._replace(cpus=3 * 4 + 2 + 2)).status == "pass"
    assert machine.check_cpus(paper, NODE._replace(cpus=3 * 4 + 2 + 1)).status == "fail"


def test_slots_that_the_config_gives_ray_count_instead_of_cpus():
    config = compose("grpo", ["profile=cpu"])
    assert machine.check_cpus(config, NODE._replace(cpus=1)).found.startswith("32, needs")


def test_scorers_must_leave_whole_gpus_on_every_node():
    config = compose("grpo", ["profile=node_8x80g", "trainer.nnodes=3", "trainer.n_gpus_per_node=1"])
    engine = EngineOptions(where="ray", replicas=3, gpus=0.25)
    spread = machine.check_scorers(config, engine, NODE._replace(gpus=[80.0]))
    assert (
        spread.status == "fail" and "leave 0, 0, 0 whole GPUs" in spread.found and "Set fewer replicas" in spread.found
    )
    assert machine.check_scorers(config, engine, None).status == "fail"
    assert machine.check_scorers(config, engine, NODE._replace(gpus=[80.0, 80.0])).status == "pass"
    assert machine.check_scorers(config, EngineOptions(where="ray", replicas=3), NODE).status == "pass"
