"""Tiny random models of CheXbert and BERTScore in the published on-disk formats."""

import json
from pathlib import Path

import tiny_checkpoints as tiny

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
    config = tiny.bert_config(initializer_range=0.3)
    module = torch.nn.Module()
    module.bert = BertModel(config)
    module.linear_heads = torch.nn.ModuleList(torch.nn.Linear(config.hidden_size, n) for n in [4] * 13 + [2])
    for head in module.linear_heads:
        torch.nn.init.normal_(head.weight, std=0.3)
        torch.nn.init.zeros_(head.bias)
    state = {f"module.{key}": value for key, value in module.state_dict().items()}
    # The format before torch.save changed to zip files, in which the published file may be as well.
    path = Path(folder) / "chexbert.pth"
    torch.save({"epoch": 7, "model_state_dict": state}, path, _use_new_zipfile_serialization=False)


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
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaConfig, RobertaForMaskedLM, RobertaTokenizer

    torch.manual_seed(2)
    folder.mkdir()
    bpe = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    bpe.train_from_iterator(SENTENCES, vocab_size=400, min_frequency=1, special_tokens=special, show_progress=False)
    bpe.save_model(str(folder))
    RobertaTokenizer.from_pretrained(folder).save_pretrained(folder)
    settings = {"tokenizer_class": "RobertaTokenizer", "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    config = RobertaConfig(
        vocab_size=bpe.get_vocab_size(), hidden_size=32, num_hidden_layers=6, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=514, type_vocab_size=1, initializer_range=0.1,
    )  # fmt: skip
    RobertaForMaskedLM(config).save_pretrained(folder)
