"""Length of prompts in tokens, with a model's own tokenizer and image processor, without decoding an image."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from reward_fns.conventions import smart_resize
from reward_fns.errors import UsageError

# What qwen_vl_utils 0.0.14 takes for a row that names no bounds, in visual tokens.
_MIN_TOKENS, _MAX_TOKENS = 4, 16384


class PromptLengths:
    """Counts tokens as verl's agent loop will, for the folder or hub id of a checkpoint of the Qwen-VL family.

    An image is resized twice, to the row's bounds by verl's reader and to its own by the processor.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        sizes = self._processor.image_processor
        if not all(hasattr(sizes, name) for name in ("get_number_of_image_patches", "patch_size", "merge_size")):
            raise UsageError(
                f"--model {model}: its {type(sizes).__name__} does not tell tokens from sizes; use "
                "python -m recipe.cxr_grpo.read_check, which runs the images through it"
            )
        self._patch, self._merge = int(sizes.patch_size), int(sizes.merge_size)

    @cached_property
    def _processor(self) -> Any:
        try:
            from reward_fns.models.shims import torchvision_operators

            torchvision_operators()
            from transformers import AutoProcessor
            from transformers.utils import logging
        except ImportError as error:
            message = f"--model needs torch and transformers ({error}): pip install 'cxr-grpo[scorers]'"
            raise UsageError(message) from error
        logging.set_verbosity_error()
        try:
            return AutoProcessor.from_pretrained(self._model)
        except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
            raise UsageError(
                f"--model {self._model}: no processor can be loaded; give a model's folder or hub id ({error})"
            ) from error

    def _image_tokens(self, width: int, height: int, entry: Mapping[str, Any]) -> int:
        factor = self._patch * self._merge
        low = entry.get("min_pixels") or _MIN_TOKENS * factor**2
        high = entry.get("max_pixels") or _MAX_TOKENS * factor**2
        width, height = smart_resize(width, height, factor, low, high)
        return int(self._processor.image_processor.get_number_of_image_patches(height, width, {})) // self._merge**2

    def count(self, prompt: Sequence[Mapping[str, str]], images: Sequence[tuple[int, int, Mapping[str, Any]]]) -> int:
        """Tokens of a prompt with one `<image>` per image; of images their sides in pixels and entries in the row."""
        messages = []
        for turn in prompt:
            parts: list[dict[str, str]] = []
            for i, text in enumerate(turn["content"].split("<image>")):
                parts += [{"type": "image"}] if i else []
                parts += [{"type": "text", "text": text}] if text else []
            messages.append({"role": turn["role"], "content": parts})
        text = self._processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        visual = [self._image_tokens(*image) for image in images]
        return self.count_text(text) + sum(visual) - len(visual)  # the text has one token for each

    def count_text(self, text: str) -> int:
        """Tokens of a text alone."""
        return len(self._processor.tokenizer(text, add_special_tokens=False)["input_ids"])
