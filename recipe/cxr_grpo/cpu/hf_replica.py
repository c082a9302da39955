"""verl's side of the ``hf`` rollout: the server actor, its replica and the adapter that sends weights to it."""

import os
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from verl.workers.rollout.base import BaseRollout
from verl.workers.rollout.replica import RolloutReplica, TokenOutput

from recipe.cxr_grpo.cpu.hf_rollout import BatchedGenerator


def replica_name(rank: int) -> str:
    """Ray name of the actor that serves replica ``rank``, in the namespace of the run's own Ray."""
    return f"hf_rollout_{os.environ.get('CXR_GRPO_RUN', 'run')}_{rank}"


async def _no_op(self: "HFServer", *_args: Any, **_kwargs: Any) -> dict:
    return {}


class HFServer:
    """Ray actor around :class:`BatchedGenerator` with the methods that verl calls on a rollout server."""

    def __init__(self, model_path: str, max_new_tokens: int) -> None:
        self.generator = BatchedGenerator(model_path, max_new_tokens)
        self.global_steps = 0

    async def ready(self) -> None:
        pass

    # The model stays in main memory, so everything that verl does to free or wake a device is a no-op.
    wake_up = sleep = clear_kv_cache = abort_all_requests = resume_generation = _no_op
    release_kv_cache = resume_kv_cache = start_profile = stop_profile = _no_op

    async def set_global_steps(self, steps: int) -> None:
        self.global_steps = steps

    async def load_weights(self, named: list[tuple[str, Any]]) -> None:
        self.generator.load_weights(named)

    async def generate(
        self, prompt_ids: list[int], sampling_params: dict, request_id: str, image_data: Any = None, **_: Any
    ) -> TokenOutput:
        tokens, logprobs = await self.generator.generate(prompt_ids, sampling_params, image_data)
        return TokenOutput(
            token_ids=tokens,
            log_probs=logprobs if sampling_params.get("logprobs") is not None else None,
            stop_reason="completed",
            extra_fields={"global_steps": self.global_steps},
        )


class HFReplica(RolloutReplica):
    """One server actor per replica, on the node of its trainer."""

    def rollout_worker_use_gpu(self) -> bool:
        return False

    async def launch_servers(self) -> None:
        # An actor that takes no CPU may be scheduled on any node of a cluster, also one reserved for something else.
        trainer: Any = self.workers[0]
        node = await trainer.__ray_call__.remote(lambda _: ray.get_runtime_context().get_node_id())
        strategy = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
        name = replica_name(self.replica_rank)
        server: Any = (
            ray.remote(HFServer)
            .options(name=name, num_cpus=0, max_concurrency=1000, scheduling_strategy=strategy)
            .remote(self.model_config.path, self.config.response_length)
        )
        await server.ready.remote()
        self.servers = [server]
        self._server_handle = server
        self._server_address = name


class HFAdapter(BaseRollout):
    """Runs in the trainer's process and hands each update's weights to the server."""

    def __init__(self, config: Any, model_config: Any, device_mesh: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, model_config, device_mesh)
        self.replica_rank = int(os.environ["RANK"]) // self.config.tensor_model_parallel_size

    @property
    def server(self) -> Any:
        return ray.get_actor(replica_name(self.replica_rank))

    async def resume(self, tags: list[str]) -> None:
        await self.server.wake_up.remote(tags=tags)

    async def release(self) -> None:
        await self.server.sleep.remote()

    async def update_weights(self, weights: Any, wire_format: str = "named_tensors", **kwargs: Any) -> None:
        named = []
        if hasattr(weights, "__aiter__"):
            async for name, tensor in weights:
                named.append((name, tensor.detach().cpu().clone()))
        else:
            named = [(name, tensor.detach().cpu().clone()) for name, tensor in weights]
        await self.server.load_weights.remote(named)
        if kwargs.get("global_steps") is not None:
            await self.server.set_global_steps.remote(kwargs["global_steps"])
