"""Tiny random checkpoints in the published on-disk formats, for tests without the real weights."""

import json
from pathlib import Path

from bench.scorers import random_weights

from reward_fns.models.shims import torchvision_operators

torchvision_operators()

_WORDS = """no acute cardiopulmonary abnormality process the heart is enlarged mild pulmonary edema pleural effusion
left right small bilateral pneumothorax there of and with lung lungs are clear normal size opacity opacities atelectasis
consolidation pneumonia unchanged tube terminates above carina cm in seen none"""
HIDDEN = 48


def vocabulary():
    return random_weights.vocabulary(_WORDS.split())


def bert_config(**changes):
    from transformers import BertConfig

    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    return BertConfig(**({"vocab_size": len(vocabulary()), "max_position_embeddings": 512} | shape | changes))


def bert_folder(folder, **changes):
    """Config and tokenizer of a tiny BERT, as of bert-base-uncased; returns the folder."""
    config = bert_config(**changes).to_diff_dict()
    return random_weights.bert_folder(Path(folder), _WORDS.split(), **config)


def modernbert_folder(folder):
    """Config and tokenizer of a tiny ModernBERT; returns the folder."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    ids = {token: i for i, token in enumerate([*special, *letters, "th", "he", "ed", "em"])}
    merges = [("t", "h"), ("h", "e"), ("e", "d"), ("e", "m")]
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=merges, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    pair = [(token, ids[token]) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]", pair)
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    folder = Path(folder)
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    classes = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(classes | names))
    # Written out, for what transformers 5 saves its version 4 would read differently.
    config = {
        "model_type": "modernbert", "architectures": ["ModernBertForMaskedLM"], "vocab_size": len(ids),
        "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64,
        "max_position_embeddings": 512, "local_attention": 16, "global_attn_every_n_layers": 3,
        "global_rope_theta": 160000.0, "local_rope_theta": 10000.0, "norm_bias": False, "reference_compile": False,
        "pad_token_id": 0, "bos_token_id": 2, "cls_token_id": 2, "eos_token_id": 3, "sep_token_id": 3,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def radgraph_archive(folder, model, encoder, *, seed=0, shift=0.0, change=None, name=None, settings=None):
    """Write `<model>.tar.gz` as on the hub and return its path.

    Args:
        folder: where to write it.
        model: "radgraph", "radgraph-xl" or "modern-radgraph-xl".
        encoder: folder with the encoder's config and tokenizer.
        seed: of the random weights.
        shift: added to the scores of entities, a third of it to those of relations: more of them, or fewer.
        change: called with the state dict before it is saved.
        name: of the encoder in config.json; its folder by default.
        settings: for `modules` of config.json.
    """
    state = random_weights.radgraph_state(Path(encoder), model, hidden=HIDDEN, seed=seed, shift=shift)
    if change:
        change(state)
    config = random_weights.radgraph_config(name or str(encoder), hidden=HIDDEN)
    config["model"]["modules"] |= settings or {}
    return random_weights.write_radgraph(Path(folder), model, state, config)
