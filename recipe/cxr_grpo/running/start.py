"""How verl's trainers are started: their command lines, and the names of their logs."""

import os
import sys
from collections.abc import Sequence
from typing import Any

from reward_fns.errors import UsageError

CONFIG_MODULE = "recipe.cxr_grpo.config"
TRAINERS = {"grpo": "verl.trainer.main_ppo", "sft": "verl.trainer.sft_trainer"}


def trainer_command(kind: str, config: Any, arguments: Sequence[str]) -> list[str]:
    """The command that starts a trainer; for SFT that of torchrun, with one process for each GPU of this node.

    UsageError: SFT on several nodes, where this command runs on each of them, without the address of the first.
    """
    trainer = ["-m", TRAINERS[kind], f"--config-path=pkg://{CONFIG_MODULE}", *arguments]
    if kind == "grpo":  # Ray starts its processes
        return [sys.executable, *trainer]
    nodes = config.trainer.nnodes
    place = ["--standalone"]
    if nodes > 1:
        if not (address := os.environ.get("MASTER_ADDR")):
            raise UsageError(
                f"SFT on trainer.nnodes={nodes}: start this command on every node, with srun --nodes={nodes} "
                "--ntasks-per-node=1, and set MASTER_ADDR to the name of the first one"
            )
        port = os.environ.get("MASTER_PORT", "29500")
        place = [f"--nnodes={nodes}", f"--node-rank={_node()}", f"--master-addr={address}", f"--master-port={port}"]
    place.append(f"--nproc-per-node={config.trainer.n_gpus_per_node}")
    return [sys.executable, "-m", "torch.distributed.run", *place, *trainer]


def own_file(kind: str, name: str) -> str:
    """The name of a file that a run writes, with the number of the node where several write one: SFT on others.

    >>> own_file("grpo", "grpo.log")
    'grpo.log'
    """
    if first_node(kind):
        return name
    stem, _, suffix = name.rpartition(".")
    return f"{stem}.node{_node()}.{suffix}"


def first_node(kind: str) -> bool:
    """Whether this process starts the run: GRPO has one on one node, SFT one on every node."""
    return kind == "grpo" or _node() == 0


def _node() -> int:
    return int(os.environ.get("SLURM_NODEID", "0"))  # srun sets it
