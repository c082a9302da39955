"""A published transformer encoder with its tokenizer: from texts to hidden states, in batches of like length."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from reward_fns.errors import UsageError

MAX_TOKENS = 512  # positions of BERT, DistilBERT and DistilRoBERTa
_BATCH_TOKENS = {"cpu": 2048, "cuda": 16384}


class Batch(NamedTuple):
    """Some of the texts, encoded.

    Attributes:
        indices: which of the texts.
        ids: token ids of each, special tokens included.
        states: last hidden states, float32, of shape (texts, tokens of the longest, width); what is beyond a text's
            own tokens is padding.
    """

    indices: list[int]
    ids: list[list[int]]
    states: Any


class Encoder:
    """A model and its tokenizer, safe to call from several threads.

    Args:
        model: a transformers model, on the CPU; it moves to the GPU if this process has one.
        tokenizer: its tokenizer.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        import torch

        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = model.eval().to(self.device)
        self.tokenizer = tokenizer
        # A tokenizer must not be used by two threads at once, and two models at once only fight for the cores.
        self._lock = threading.Lock()

    def __call__(self, texts: Sequence[str]) -> Iterator[Batch]:
        """Encode `encodable` texts, cut at `MAX_TOKENS`; batches come in no particular order.

        A text's states don't depend on its batch but for rounding (about 1e-6).
        """
        import torch

        if not texts:
            return
        with self._lock:
            ids = self.tokenizer(list(texts), truncation=True, max_length=MAX_TOKENS)["input_ids"]
        for indices in batches([len(row) for row in ids], _BATCH_TOKENS[self.device]):
            rows = [torch.tensor(ids[i]) for i in indices]
            padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.tokenizer.pad_token_id)
            mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
            with self._lock, torch.inference_mode():
                output = self.model(input_ids=padded.to(self.device), attention_mask=mask.to(self.device))
            yield Batch(indices, [ids[i] for i in indices], output.last_hidden_state)


def encodable(text: str) -> str:
    """The text without lone surrogates: they are no characters, and tokenizers written in Rust refuse them.

    >>> encodable("no \\ud800mass")
    'no mass'
    """
    return text.encode("utf-8", "ignore").decode("utf-8")


def batches(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Indices of all sequences, those of like length together, so that little of a batch is padding.

    Args:
        lengths: of the sequences, in tokens.
        tokens: most that a batch may have, padding included; a sequence longer than that comes alone.

    >>> list(batches([9, 2, 3, 2], tokens=6))
    [[1, 3], [2], [0]]
    """
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[i] > tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def load(read: Callable[..., Any], source: Path, what: str, *, strict: bool, **arguments: Any) -> Any:
    """A transformers model in float32, none of whose weights are left to chance.

    Args:
        read: a `from_pretrained`.
        source: the file or folder that the weights come from, for messages.
        what: what should be in there.
        strict: refuse weights that the model has no place for, too.
        arguments: for `read`.

    Raises:
        UsageError: weights are missing or of another shape.
    """
    import torch
    import transformers

    verbosity, bar = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()  # heads that we don't use are no news
    transformers.logging.disable_progress_bar()
    try:
        model, info = read(**arguments, dtype=torch.float32, output_loading_info=True)
    except (RuntimeError, ValueError, OSError) as error:
        raise UsageError(f"{source} does not hold {what}: {error}") from error
    finally:
        transformers.logging.set_verbosity(verbosity)
        if bar:
            transformers.logging.enable_progress_bar()
    wrong = {key for key in info["missing_keys"] if "pooler" not in key}
    wrong |= set(info["unexpected_keys"]) if strict else set()
    if wrong:
        raise UsageError(f"{source} does not hold {what}: {len(wrong)} weights don't fit, such as {min(wrong)}")
    return model
