"""Tiny random models of CheXbert and BERTScore in the published on-disk formats."""

from pathlib import Path

import tiny_checkpoints as tiny
from bench.scorers import random_weights

# What the byte-level BPE is trained on; written for these tests.
SENTENCES = [
    "The heart is enlarged. The heart size is normal. No acute cardiopulmonary process. There is no pneumothorax.",
    "Small left pleural effusion with adjacent atelectasis. Right lower lobe consolidation, which may be pneumonia.",
    "Mild pulmonary edema (new). A tube ends 3 cm above the carina. Lungs clear; no focal opacity. Stable fracture.",
]


def chexbert(folder):
    """Write chexbert.pth, for a `tiny.bert_folder` with initializer_range=0.3."""
    import torch
    from transformers import BertModel

    torch.manual_seed(0)
    random_weights.write_chexbert(Path(folder), BertModel(tiny.bert_config(initializer_range=0.3)))


def distilbert(folder):
    """Write a DistilBERT as distilbert-base-uncased."""
    import torch
    from transformers import DistilBertConfig, DistilBertForMaskedLM

    torch.manual_seed(1)
    tiny.bert_folder(folder)
    config = DistilBertConfig(
        vocab_size=len(tiny.vocabulary()), dim=32, hidden_dim=64, n_layers=6, n_heads=2, initializer_range=0.1
    )
    DistilBertForMaskedLM(config).save_pretrained(folder)


def distilroberta(folder):
    """Write a RoBERTa with its byte-level BPE as distilroberta-base."""
    shape = {"hidden_size": 32, "num_hidden_layers": 6, "num_attention_heads": 2, "intermediate_size": 64}
    random_weights.write_distilroberta(folder, SENTENCES, 400, initializer_range=0.1, **shape)


def put_in_cache(text_models, cache):
    """Make a folder `cache` that is a Hugging Face cache with these models."""
    folders = {
        "StanfordAIMI/RRG_scorers": text_models.scorers,
        "google-bert/bert-base-uncased": text_models.bert,
        "distilbert/distilbert-base-uncased": text_models.root / "distilbert-base-uncased",
        "distilbert/distilroberta-base": text_models.root / "distilroberta-base",
    }
    for repo, folder in folders.items():
        place = cache / f"models--{repo.replace('/', '--')}"
        for name, content in (("refs/main", "0" * 40), ("snapshots", "")):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_text(content) if content else (place / name).mkdir()
        (place / "snapshots" / ("0" * 40)).symlink_to(folder)
