"""A row's prompt as a rollout has it: verl's image reader and a model's own chat template."""

import asyncio
from typing import Any

from reward_fns.errors import UsageError


def load_model(model: str) -> tuple[Any, Any]:
    """A model's tokenizer and processor, loaded by verl; UsageError where verl would go on without a processor."""
    from recipe.cxr_grpo.cpu import shims

    shims.torchvision_operators()
    from datasets import disable_progress_bars
    from verl.utils import hf_processor, hf_tokenizer

    disable_progress_bars()  # those of reading a file into the cache
    try:
        tokenizer, processor = hf_tokenizer(model), hf_processor(model)
    except (OSError, ValueError) as error:
        raise UsageError(f"--model {model}: can't be loaded; give a model's folder or hub id ({error})") from error
    if processor is None:
        raise UsageError(f"--model {model}: verl finds no image processor there, and would train it on text only")
    return tokenizer, processor


def prompt_of(
    data: Any, messages: list[dict[str, Any]], processor: Any, instead: str | None = None
) -> tuple[str, Any, Any]:
    """Text, images and videos of the `raw_prompt` of a row of `data`, verl's RLHFDataset; images are PIL's, or None.

    The text is the chat template's, or `instead` for a model without one. An image is resized to its row's `min_pixels`
    and `max_pixels`, as verl's agent loop does before vLLM sees it.
    """
    text = instead or processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    images, videos, _ = asyncio.run(data.process_multi_modal_info(messages, data.image_patch_size, data.config))
    return text, images, videos
