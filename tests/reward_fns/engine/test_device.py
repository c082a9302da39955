"""Which device `device: auto` is, for the processes of a node."""

import shutil
import sys
import tempfile
from types import SimpleNamespace

import pytest

pytest.importorskip("torch")
from reward_fns.engine import device
from reward_fns.engine.device import device_of
from reward_fns.errors import UsageError
from reward_fns.settings import EngineOptions


@pytest.fixture
def node(monkeypatch):
    """A process on a node with four GPUs: `node(actor=..., gpus=..., visible=..., rank=...)` is its device."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    device._warn_of_cpu.cache_clear()

    def of(actor=None, gpus=(), visible=None, rank=None):
        for name, value in (("CUDA_VISIBLE_DEVICES", visible), ("LOCAL_RANK", rank)):
            monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
        context = SimpleNamespace(get_actor_id=lambda: actor, get_accelerator_ids=lambda: {"GPU": list(gpus)})
        ray = SimpleNamespace(is_initialized=lambda: True, get_runtime_context=lambda: context)
        monkeypatch.setitem(sys.modules, "ray", ray)
        return device_of(EngineOptions())

    return of


def test_a_worker_that_ray_gave_no_gpu_keeps_off_the_trainers(node, caplog):
    assert [node(actor=f"reward worker {i}") for i in range(8)] == ["cpu"] * 8
    (said,) = caplog.records  # once
    assert "4 GPUs, but Ray assigned none" in said.getMessage() and "where: ray" in said.getMessage()


def test_a_worker_uses_the_gpu_that_ray_gave_it(node):
    assert node(actor="a", gpus=["3"], visible="3") == "cuda:0"
    assert node(actor="a", gpus=["3"], visible="0,1,2,3") == "cuda:3"
    assert node(actor="a", gpus=["2"]) == "cuda:2"


def test_elsewhere_it_is_the_rank_or_the_first(node, monkeypatch):
    assert node() == "cuda:0"
    assert node(rank="2") == "cuda:2" and node(rank="5") == "cuda:1"
    monkeypatch.delitem(sys.modules, "ray")
    assert device_of(EngineOptions()) == "cuda:1"


def test_without_a_gpu_and_by_name(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert device_of(EngineOptions()) == "cpu" and device_of(EngineOptions(device="cpu")) == "cpu"
    with pytest.raises(UsageError, match="device cuda:9 is not available"):
        device_of(EngineOptions(device="cuda:9"))


def test_in_a_real_ray_actor(monkeypatch):
    """What Ray itself says about actors with and without GPUs; no GPU is needed for that."""
    ray = pytest.importorskip("ray")
    ids = {}
    monkeypatch.setattr("ray._private.utils.write_ray_address", lambda *place: None)
    folder = tempfile.mkdtemp(prefix="cxr", dir="/tmp")  # sockets allow no long path
    ray.init(
        address="local", num_cpus=1, num_gpus=2, include_dashboard=False, log_to_driver=False,
        object_store_memory=80 << 20, _temp_dir=folder,
    )  # fmt: skip

    @ray.remote(num_cpus=0)
    class Worker:
        def device(self):
            return device._own_gpu(2)

    try:
        for gpus in (0, 0.5, 1):
            ids[gpus] = ray.get(Worker.options(num_gpus=gpus).remote().device.remote())
        assert ids[0] == "cpu" and ids[0.5] == "cuda:0" and ids[1] == "cuda:0"
        assert device._own_gpu(2) == "cuda:0"  # the driver is no worker
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
