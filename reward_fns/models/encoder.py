"""A published transformer encoder with its tokenizer: from texts to hidden states."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reward_fns.engine.device import device_of
from reward_fns.errors import UsageError
from reward_fns.models.shims import torchvision_operators
from reward_fns.settings import EngineOptions

MAX_TOKENS = 512  # positions of BERT, DistilBERT and DistilRoBERTa


class Encoder:
    """A transformers model on the options' device, in their precision, with its tokenizer; for one thread at a time."""

    def __init__(self, model: Any, tokenizer: Any, options: EngineOptions) -> None:
        import torch

        self.tokenizer = tokenizer
        self.device = device_of(options)
        model = model.eval().to(self.device, getattr(torch, options.dtype))
        self.model = torch.compile(model, dynamic=True) if options.compile else model

    def tokenise(self, texts: Sequence[str]) -> list[tuple[int, list[int]]]:
        """Number of tokens, and their ids, special ones included, of `encodable` texts, cut at `MAX_TOKENS`."""
        ids = self.tokenizer(list(texts), truncation=True, max_length=MAX_TOKENS)["input_ids"]
        return [(len(row), row) for row in ids]

    def encode(self, ids: Sequence[list[int]]) -> Any:
        """Last hidden states, float32, of shape (texts, tokens of the longest, width); padding comes last."""
        import torch

        padding, lengths = self.tokenizer.pad_token_id or 0, [len(row) for row in ids]
        longest = max(lengths)
        padded = torch.tensor([row + [padding] * (longest - len(row)) for row in ids], device=self.device)
        mask = (torch.arange(longest) < torch.tensor(lengths)[:, None]).long().to(self.device)
        with torch.inference_mode():
            return self.model(input_ids=padded, attention_mask=mask).last_hidden_state.float()


def encodable(text: str) -> str:
    """The text without lone surrogates, which are not characters and which tokenizers written in Rust refuse."""
    return text.encode("utf-8", "ignore").decode("utf-8")


def load(
    kind: str, source: Path, what: str, base: Path, options: EngineOptions, *, strict: bool, **how: Any
) -> Encoder:
    """A transformers model of a class, with the tokenizer in `base`, from what `how` gives `from_pretrained`.

    UsageError if weights are missing or misshapen, or, with `strict`, unused.
    """
    torchvision_operators()
    import torch
    import transformers

    verbosity, bar = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()  # about heads that we don't use
    transformers.logging.disable_progress_bar()
    try:
        from_pretrained = getattr(transformers, kind).from_pretrained
        model, info = from_pretrained(dtype=torch.float32, output_loading_info=True, **how)
    except (RuntimeError, ValueError, OSError) as error:
        raise UsageError(f"{source} does not hold {what}: {error}") from error
    finally:
        transformers.logging.set_verbosity(verbosity)
        if bar:
            transformers.logging.enable_progress_bar()
    wrong = [key for key in info["missing_keys"] if "pooler" not in key]
    if wrong := [*wrong, *(info["unexpected_keys"] if strict else ())]:
        raise UsageError(f"{source} does not hold {what}: {len(wrong)} weights don't fit, such as {min(wrong)}")
    return Encoder(model, transformers.AutoTokenizer.from_pretrained(base), options)
