"""A Qwen3-VL of one to three million parameters, in the format of the published checkpoints.

The vocabulary is made from the words of the demo data set, so that a report takes one token per word and a box four;
everything else is spelled in bytes, so no text is out of vocabulary.
"""

from collections.abc import Iterable
from importlib import resources
from pathlib import Path

import yaml

_SETTINGS = yaml.safe_load((resources.files(__package__) / "architecture.yaml").read_text())
SPECIAL_TOKENS = tuple(f"<|{name}|>" for name in _SETTINGS["special_tokens"])
END_OF_TEXT, END_OF_TURN = SPECIAL_TOKENS[0], SPECIAL_TOKENS[2]
CHAT_TEMPLATE = "".join(_SETTINGS["chat_template"])
IMAGE_SIDE = 128  # in pixels, to which square images shrink: 16 visual tokens
PATCH, MERGE = (_SETTINGS["vision_config"][key] for key in ("patch_size", "spatial_merge_size"))
CELL = PATCH * MERGE  # side in pixels of the square that one visual token covers


def demo_corpus() -> Iterable[str]:
    """Texts whose words become tokens: the demo set's questions and reports, and the roles of a chat."""
    yield from ["user\n", "assistant\n", "system\n", "<think>", "</think>"] * 4
    import numpy as np

    from data_prep.sets.demo import findings as demo_findings
    from data_prep.writer import rows

    rng = np.random.default_rng(0)
    for _ in range(400):
        findings = demo_findings.draw_findings(rng)
        yield demo_findings.report(findings, rng)
        for kind in {finding.kind for finding in findings}:
            phrase = demo_findings.phrase(kind, [finding for finding in findings if finding.kind == kind])
            yield from (wording.format(phrase=phrase) for wording in rows._QUESTIONS["finding"])
        yield from rows._QUESTIONS["findings"]


def build_tokenizer(corpus: Iterable[str], vocab_size: int):
    """Qwen's tokenizer (byte-level BPE, its own word splitting) trained on ``corpus`` to at most ``vocab_size``.

    Every two-decimal coordinate in each place of a box is one token, so that ``[0.12, 0.3, 0.45, 0.8]`` is four.
    """
    from tokenizers import AddedToken, pre_tokenizers
    from transformers import Qwen2Tokenizer

    numbers = [repr(round(hundredth / 100, 2)) for hundredth in range(101)]
    coordinates = [form.format(number) for form in ("[{},", " {},", " {}]") for number in numbers]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    empty = Qwen2Tokenizer(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[])
    words = vocab_size - len(SPECIAL_TOKENS) - len(coordinates)
    trained = empty.train_new_from_iterator(corpus, words, show_progress=False)
    ends = {"eos_token": END_OF_TURN, "pad_token": END_OF_TEXT}
    trained.add_special_tokens(ends | {"additional_special_tokens": list(SPECIAL_TOKENS[1:])})
    trained.add_tokens([AddedToken(text, normalized=False) for text in coordinates])
    trained.chat_template = CHAT_TEMPLATE
    return trained


def build_model(tokenizer, hidden_size: int, layers: int, seed: int):
    """A Qwen3-VL with random weights for ``tokenizer``'s vocabulary. Shapes scale with ``hidden_size``."""
    import torch
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    ids = tokenizer.get_vocab()
    heads = hidden_size // _SETTINGS["text_config"]["head_dim"]
    ends = {"bos_token_id": ids[END_OF_TEXT], "pad_token_id": ids[END_OF_TEXT]}
    width = {"hidden_size": hidden_size, "intermediate_size": 2 * hidden_size}
    text = {"vocab_size": -(-len(tokenizer) // 64) * 64, "num_hidden_layers": layers, "num_attention_heads": heads}
    text |= {"num_key_value_heads": max(heads // 2, 1), **width, **ends, "eos_token_id": ids[END_OF_TURN]}
    vision = {"num_heads": heads, "out_hidden_size": hidden_size, **width}
    config = Qwen3VLConfig(
        text_config=_SETTINGS["text_config"] | text,
        vision_config=_SETTINGS["vision_config"] | vision,
        **{f"{name}_token_id": ids[f"<|{name}_pad|>"] for name in ("image", "video")},
        **{f"{name}_token_id": ids[f"<|{name}|>"] for name in ("vision_start", "vision_end")},
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(config)
    model.bfloat16()
    model.generation_config.update(**ends, eos_token_id=[ids[END_OF_TURN]], do_sample=True)
    return model


def build_processor(tokenizer, max_pixels: int):
    """Image and video processor around ``tokenizer``; images shrink to at most ``max_pixels``, aspect kept."""
    from transformers import Qwen2VLImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

    patches = {"patch_size": PATCH, "merge_size": MERGE}
    size = {"shortest_edge": 4 * CELL * CELL, "longest_edge": max_pixels}
    gray = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    images = Qwen2VLImageProcessor(**patches, temporal_patch_size=2, size=size, **gray)
    return Qwen3VLProcessor(images, tokenizer, Qwen3VLVideoProcessor(**patches), chat_template=CHAT_TEMPLATE)


def write_random(
    out: Path,
    seed: int = 0,
    *,
    hidden_size: int = 128,
    layers: int = 4,
    image_side: int = IMAGE_SIDE,
    vocab_size: int = 2048,
) -> int:
    """Write a model with random weights, its tokenizer and processor; returns the number of its parameters."""
    _quiet()
    tokenizer = build_tokenizer(demo_corpus(), vocab_size)
    model = build_model(tokenizer, hidden_size, layers, seed)
    out.mkdir(parents=True, exist_ok=True)
    for part in (model, build_processor(tokenizer, image_side**2), tokenizer):
        part.save_pretrained(out)
    return sum(parameter.numel() for parameter in model.parameters())


def write_bfloat16(source: Path, out: Path) -> None:
    """Write the model of a folder in Hugging Face format again, with its weights in bfloat16."""
    _quiet()
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    out.mkdir(parents=True, exist_ok=True)
    AutoModelForImageTextToText.from_pretrained(source, dtype=torch.bfloat16).save_pretrained(out)
    AutoProcessor.from_pretrained(source).save_pretrained(out)


def _quiet() -> None:
    from recipe.cxr_grpo.cpu import shims

    shims.torchvision_operators()
    from transformers.utils import logging

    logging.disable_progress_bar()
