import sys
from types import SimpleNamespace

import pytest

from recipe.cxr_grpo.running.start import first_node, own_file, trainer_command
from reward_fns.errors import UsageError


def command(kind, nodes, gpus):
    config = SimpleNamespace(trainer=SimpleNamespace(nnodes=nodes, n_gpus_per_node=gpus))
    python, *arguments = trainer_command(kind, config, ["--config-name=x", "data.seed=3"])
    assert python == sys.executable
    assert arguments[-2:] == ["--config-name=x", "data.seed=3"]
    return arguments[:-2]


def test_grpo_is_one_process_whatever_the_gpus():
    assert command("grpo", 8, 4) == ["-m", "verl.trainer.main_ppo", "--config-path=pkg://recipe.cxr_grpo.config"]


def test_sft_has_a_process_for_each_gpu():
    assert command("sft", 1, 2) == [
        *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
        *("-m", "verl.trainer.sft_trainer", "--config-path=pkg://recipe.cxr_grpo.config"),
    ]


def test_sft_on_several_nodes_meets_at_the_first(monkeypatch):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(
        UsageError, match=r"nnodes=8: start this command on every node, with srun --nodes=8 .*MASTER_ADDR"
    ):
        command("sft", 8, 4)
    for name, value in {"MASTER_ADDR": "nid01", "MASTER_PORT": "7100", "SLURM_NODEID": "3"}.items():
        monkeypatch.setenv(name, value)
    place = ["--nnodes=8", "--node-rank=3", "--master-addr=nid01", "--master-port=7100", "--nproc-per-node=4"]
    assert command("sft", 8, 4)[2:7] == place


def test_of_sft_every_node_writes_files_of_its_own(monkeypatch):
    monkeypatch.delenv("SLURM_NODEID", raising=False)
    assert own_file("sft", "sft.log") == "sft.log" and first_node("sft")
    monkeypatch.setenv("SLURM_NODEID", "3")
    assert own_file("sft", "sft.log") == "sft.node3.log" and not first_node("sft")
    assert own_file("grpo", "grpo.log") == "grpo.log" and first_node("grpo")  # on one node, whichever that is
