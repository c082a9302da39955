"""Rollouts by ``transformers.generate``, for CPUs on which vLLM's CPU build can't be installed or imported.

verl's rollout ``hf``: one Ray actor holds the model, and requests that arrive together with the same sampling
parameters are generated as one left-padded batch.
"""

import asyncio
from typing import Any

MAX_BATCH = 64
"""Prompts generated together; bounds the memory of the key-value cache."""

GATHER_SECONDS = 0.05
"""How long a batch waits for more requests. verl sends a step's prompts within a few milliseconds of each other."""


class BatchedGenerator:
    """Collects single requests into batches for one Qwen-VL style model.

    Args:
        model_path: folder in Hugging Face format, with its processor.
        max_new_tokens: longest answer in tokens.
    """

    def __init__(self, model_path: str, max_new_tokens: int) -> None:
        import torch
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
        tokenizer = getattr(processor, "tokenizer", processor)
        self.pad_id = tokenizer.pad_token_id
        eos = self.model.generation_config.eos_token_id
        self.eos_ids = set(eos) if isinstance(eos, list) else {eos}
        self.max_new_tokens = max_new_tokens
        self.queue: asyncio.Queue[tuple[list[int], dict, list, asyncio.Future]] = asyncio.Queue()
        self.loop_task: asyncio.Task | None = None

    def load_weights(self, named: list[tuple[str, Any]]) -> None:
        """Copy the trainer's tensors into the model; raises KeyError for an unknown name, RuntimeError for a shape."""
        import torch

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
            results = await asyncio.get_running_loop().run_in_executor(None, self._generate, batch)
            for (*_, answer), result in zip(batch, results, strict=True):
                if not answer.done():  # a caller may have been cancelled
                    answer.set_result(result)
        except Exception as error:  # handed to the callers, who fail with it
            for *_, answer in batch:
                if not answer.done():
                    answer.set_exception(error)

    def _generate(self, batch: list) -> list[tuple[list[int], list[float]]]:
        import torch

        prompts, sampling, images = [b[0] for b in batch], batch[0][1], [image for b in batch for image in b[2]]
        width = max(map(len, prompts))
        ids = torch.full((len(prompts), width), self.pad_id)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
        if images and self.image_processor is not None:
            features = self.image_processor(images=images, return_tensors="pt")
            inputs |= {"pixel_values": features["pixel_values"], "image_grid_thw": features["image_grid_thw"]}
            inputs["mm_token_type_ids"] = (ids == self.image_token_id).long()
        temperature = sampling.get("temperature", 1.0)
        greedy = temperature == 0
        chosen = {} if greedy else {"temperature": temperature, "top_p": sampling.get("top_p", 1.0)}
        with torch.inference_mode():
            out = self.model.generate(
                **inputs,
                max_new_tokens=self.max_new_tokens,
                do_sample=not greedy,
                top_k=max(sampling.get("top_k", 0), 0) if not greedy else None,
                pad_token_id=self.pad_id,
                suppress_tokens=self.banned_ids or None,
                return_dict_in_generate=True,
                output_logits=True,
                **chosen,
            )
            tokens = out.sequences[:, width:]
            logits = torch.stack(out.logits, dim=1).float() / (temperature or 1.0)
            logits[..., self.banned_ids] = -torch.inf  # these are from before the suppression
            logprobs = torch.log_softmax(logits, -1).gather(-1, tokens[..., None])[..., 0]
        results = []
        for row, row_logprobs in zip(tokens.tolist(), logprobs.tolist(), strict=True):
            end = next((i + 1 for i, token in enumerate(row) if token in self.eos_ids), len(row))
            results.append((row[:end], row_logprobs[:end]))
        return results
