"""Rollouts by ``transformers.generate``, for CPUs on which vLLM's CPU build can't be installed or imported.

verl's rollout ``hf``: one Ray actor holds the model, and requests that arrive together with the same sampling
parameters are generated as one left-padded batch.
"""

import asyncio
import os
from typing import Any

import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch.nn.utils.rnn import pad_sequence
from verl.workers.rollout.base import BaseRollout
from verl.workers.rollout.replica import RolloutReplica, TokenOutput

MAX_BATCH = 64  # prompts generated together; bounds the memory of the key-value cache
GATHER_SECONDS = 0.05  # a batch waits for more requests; verl sends a step's prompts within a few milliseconds


class BatchedGenerator:
    """Collects single requests into batches for one Qwen-VL style model; answers have ``max_new_tokens`` at most."""

    def __init__(self, model_path: str, max_new_tokens: int) -> None:
        from transformers import AutoConfig, AutoProcessor
        from verl.utils.model import get_hf_auto_model_class
        from verl.workers.rollout.utils import get_vision_placeholder_token_ids

        config = AutoConfig.from_pretrained(model_path, attn_implementation="sdpa")
        model_class = get_hf_auto_model_class(config)
        self.model = model_class.from_pretrained(model_path, config=config, dtype=torch.float32).eval()
        processor = AutoProcessor.from_pretrained(model_path)
        self.image_processor = getattr(processor, "image_processor", None)
        self.image_token_id = getattr(processor, "image_token_id", -1)
        # As verl does for vLLM: an image placeholder in an answer, which has no image, would fail its rollout.
        self.banned_ids = get_vision_placeholder_token_ids(processor)
        self.pad_id = getattr(processor, "tokenizer", processor).pad_token_id
        eos = self.model.generation_config.eos_token_id
        self.eos_ids = set(eos) if isinstance(eos, list) else {eos}
        self.max_new_tokens = max_new_tokens
        self.queue: asyncio.Queue[tuple[list[int], dict, list, asyncio.Future]] = asyncio.Queue()
        self.loop_task: asyncio.Task | None = None

    def load_weights(self, named: list[tuple[str, Any]]) -> None:
        """Copy the trainer's tensors into the model; raises KeyError for an unknown name, RuntimeError for a shape."""
        state = self.model.state_dict()
        unknown = [name for name, _ in named if name not in state]
        if unknown:
            raise KeyError(f"weight sync: {len(unknown)} tensors unknown to {type(self.model).__name__}: {unknown[:3]}")
        with torch.no_grad():
            for name, tensor in named:
                state[name].copy_(tensor)

    async def generate(self, prompt_ids: list[int], sampling: dict, images: list | None) -> tuple[list[int], list]:
        """Token ids of the answer, end token included, and their log-probabilities under the sampling distribution."""
        if self.loop_task is None:
            self.loop_task = asyncio.create_task(self._serve())
        answer: asyncio.Future = asyncio.get_running_loop().create_future()
        await self.queue.put((list(prompt_ids), sampling, list(images or []), answer))
        return await answer

    async def _serve(self) -> None:
        while True:
            waiting = [await self.queue.get()]
            await asyncio.sleep(GATHER_SECONDS)
            while not self.queue.empty():
                waiting.append(self.queue.get_nowait())
            groups: dict[str, list] = {}
            for request in waiting:
                groups.setdefault(repr(sorted(request[1].items(), key=str)), []).append(request)
            for group in groups.values():
                for start in range(0, len(group), MAX_BATCH):
                    await self._answer(group[start : start + MAX_BATCH])

    async def _answer(self, batch: list) -> None:
        try:
            results = await asyncio.to_thread(self._generate, batch)
            for (*_, answer), result in zip(batch, results, strict=True):
                if not answer.done():  # a caller may have been cancelled
                    answer.set_result(result)
        except Exception as error:  # handed to the callers, who fail with it
            for *_, answer in batch:
                if not answer.done():
                    answer.set_exception(error)

    def _generate(self, batch: list) -> list[tuple[list[int], list[float]]]:
        sampling, images = batch[0][1], [image for request in batch for image in request[2]]
        rows = [torch.tensor(request[0]) for request in batch]
        ids = pad_sequence(rows, batch_first=True, padding_value=self.pad_id, padding_side="left")
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side="left")
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
        if images and self.image_processor is not None:
            features = self.image_processor(images=images, return_tensors="pt")
            inputs |= {"pixel_values": features["pixel_values"], "image_grid_thw": features["image_grid_thw"]}
            inputs["mm_token_type_ids"] = (ids == self.image_token_id).long()
        temperature = sampling.get("temperature", 1.0)
        if temperature:
            top_k = max(sampling.get("top_k", 0), 0)
            inputs |= {"temperature": temperature, "top_p": sampling.get("top_p", 1.0), "top_k": top_k}
        with torch.inference_mode():
            out = self.model.generate(
                **{"top_k": None, **inputs},
                do_sample=temperature != 0,
                max_new_tokens=self.max_new_tokens,
                pad_token_id=self.pad_id,
                suppress_tokens=self.banned_ids or None,
                return_dict_in_generate=True,
                output_logits=True,
            )
            tokens = out.sequences[:, ids.shape[1] :]
            logits = torch.stack(out.logits, dim=1).float() / (temperature or 1.0)
            logits[..., self.banned_ids] = -torch.inf  # these are from before the suppression
            logprobs = torch.log_softmax(logits, -1).gather(-1, tokens[..., None])[..., 0]
        results = []
        for answer, answer_logprobs in zip(tokens.tolist(), logprobs.tolist(), strict=True):
            end = next((i + 1 for i, token in enumerate(answer) if token in self.eos_ids), len(answer))
            results.append((answer[:end], answer_logprobs[:end]))
        return results


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

    # The model stays in main memory, so everything that verl does to free or wake a device is a no-op.
    ready = wake_up = sleep = clear_kv_cache = abort_all_requests = resume_generation = _no_op
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
        options = {"name": name, "num_cpus": 0, "max_concurrency": 1000, "scheduling_strategy": strategy}
        actor: Any = ray.remote(HFServer).options(**options)
        server = actor.remote(self.model_config.path, self.config.response_length)
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
        pass

    async def release(self) -> None:
        pass

    async def update_weights(self, weights: Any, wire_format: str = "named_tensors", **kwargs: Any) -> None:
        if hasattr(weights, "__aiter__"):
            named = [(name, tensor.detach().cpu().clone()) async for name, tensor in weights]
        else:
            named = [(name, tensor.detach().cpu().clone()) for name, tensor in weights]
        await self.server.load_weights.remote(named)
        if kwargs.get("global_steps") is not None:
            await self.server.set_global_steps.remote(kwargs["global_steps"])
