"""Checkpoints with random weights in the published on-disk formats, of real or any other size.

What they find in a text means nothing, but costs as much as what the published weights find. For benchmarks and tests,
where those are not at hand.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,:;()/-%'`\"!?"
LABELS = {
    "radgraph": ["OBS-DP", "ANAT-DP", "OBS-DA", "OBS-U"],
    "radgraph-xl": [
        "Observation::definitely present",
        "Anatomy::definitely present",
        "Observation::definitely absent",
        "Anatomy::measurement::definitely present",
        "Observation::uncertain",
    ],
}
LABELS["modern-radgraph-xl"] = LABELS["radgraph-xl"]
RELATIONS = ["modify", "located_at", "suggestive_of"]
FEATURES, WIDTH = 20, 8
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def write_all(folder: Path, texts: Sequence[str], layers: int = 12, width: int = 768) -> dict[str, str]:
    """Write RadGraph-XL, CheXbert and distilroberta-base, of the real shapes by default.

    Args:
        folder: where to.
        texts: that the vocabularies are made of, so that their words have about as many pieces as in truth.
        layers: of BERT; RoBERTa always has 6.
        width: of the hidden states.

    Returns:
        options of reward radcliq (and others) that name these files.
    """
    import torch
    from transformers import BertConfig, BertModel

    heads = max(1, width // 64)
    shape = {"hidden_size": width, "num_attention_heads": heads, "intermediate_size": 4 * width}
    found = dict.fromkeys(word for text in texts for word in re.findall(r"\w+|[^\w\s]", text.lower()))
    bert = bert_folder(
        folder / "bert-base-uncased", list(found)[:30_000], num_hidden_layers=layers, vocab_size=30522, **shape
    )
    config = BertConfig.from_pretrained(bert)
    scorers = folder / "RRG_scorers"
    scorers.mkdir(exist_ok=True)
    state = radgraph_state(bert, "radgraph-xl", hidden=150)
    write_radgraph(scorers, "radgraph-xl", state, radgraph_config(str(bert), hidden=150))
    torch.manual_seed(0)
    write_chexbert(scorers, BertModel(config))
    write_distilroberta(folder / "distilroberta-base", texts, vocab_size=50265, num_hidden_layers=6, **shape)
    roberta = str(folder / "distilroberta-base")
    return {"repo": str(scorers), "encoder": str(bert), "base": str(bert), "bert": roberta}


def vocabulary(words: Iterable[str]) -> list[str]:
    """A WordPiece vocabulary of words and single characters, so that any word has pieces."""
    return list(dict.fromkeys([*_SPECIAL, *words, *CHARACTERS, *(f"##{c}" for c in CHARACTERS)]))


def bert_folder(folder: Path, words: Iterable[str], **config: Any) -> Path:
    """Write config and tokenizer of a BERT as bert-base-uncased has them; returns the folder."""
    from transformers import BertConfig

    known = vocabulary(words)
    BertConfig(**{"vocab_size": len(known), **config}).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(known) + "\n")
    tokenizer = {"do_lower_case": True, "tokenizer_class": "BertTokenizer", "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return folder


def radgraph_state(encoder: Path, model: str, *, hidden: int, seed: int = 0, shift: float = 0.0) -> dict[str, Any]:
    """Weights of a RadGraph archive.

    Args:
        encoder: folder with the encoder's config.
        model: "radgraph", "radgraph-xl" or "modern-radgraph-xl".
        hidden: width of its feed-forward layers.
        seed: of the random weights.
        shift: added to the scores of entities, a third of it to those of relations: more of them, or fewer.
    """
    import torch
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(seed)
    network = AutoModel.from_config(AutoConfig.from_pretrained(str(encoder)))
    size = network.config.hidden_size
    prefix = "_embedder.token_embedder_bert._matched_embedder.transformer_model."
    state = {prefix + key: value.clone() for key, value in network.state_dict().items()}

    def linear(name: str, inputs: int, outputs: int) -> None:
        state[f"{name}.weight"] = torch.nn.init.xavier_normal_(torch.empty(outputs, inputs))
        state[f"{name}.bias"] = torch.randn(outputs) * 0.1

    def feed_forward(name: str, inputs: int) -> None:
        linear(f"{name}._linear_layers.0", inputs, hidden)
        linear(f"{name}._linear_layers.1", hidden, hidden)

    def head(name: str, inputs: int, outputs: int) -> None:
        feed_forward(f"{name}.0._module", inputs)
        linear(f"{name}.1._module", hidden, outputs)

    span = 2 * size + FEATURES
    state["_endpoint_span_extractor._span_width_embedding.weight"] = torch.randn(WIDTH, FEATURES)
    entities = f"_ner._ner_scorers.{model}__ner_labels"
    head(entities, span, len(LABELS[model]))
    relations = f"{model}__relation_labels"
    head(f"_relation._mention_pruners.{relations}._scorer", span, 1)
    feed_forward(f"_relation._relation_feedforwards.{relations}", 3 * span)
    linear(f"_relation._relation_scorers.{relations}", hidden, len(RELATIONS))
    state[f"{entities}.1._module.bias"] += shift
    state[f"_relation._relation_scorers.{relations}.bias"] += shift / 3
    # Parts for other tasks, which the archives carry along.
    state["_coref._distance_embedding.weight"] = torch.randn(10, FEATURES)
    feed_forward("_coref._antecedent_feedforward._module", 3 * span + FEATURES)
    head("_coref._mention_pruner._scorer", span, 1)
    linear("_coref._antecedent_scorer._module", hidden, 1)
    linear("_coref._f_network._linear_layers.0", 2 * span, span)
    state["_events._distance_embedding.weight"] = torch.randn(10, FEATURES)
    return state


def write_radgraph(folder: Path, model: str, state: Mapping[str, Any], config: Mapping[str, Any]) -> Path:
    """Write `<model>.tar.gz` as on the hub and return its path."""
    import torch

    weights = io.BytesIO()
    torch.save(state, weights)
    files = {
        "config.json": json.dumps(config).encode(),
        "weights.th": weights.getvalue(),
        "vocabulary/non_padded_namespaces.txt": b"*labels\n*tags\n",
        f"vocabulary/{model}__ner_labels.txt": "\n".join(["", *LABELS[model], ""]).encode(),
        f"vocabulary/{model}__relation_labels.txt": "\n".join([*RELATIONS, ""]).encode(),
    }
    path = folder / f"{model}.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def radgraph_config(encoder: str, *, hidden: int) -> dict[str, Any]:
    """Content of config.json of a RadGraph archive whose encoder is this hub repository or folder."""
    bert = {"type": "pretrained_transformer_mismatched", "model_name": encoder, "max_length": 512}
    return {
        "dataset_reader": {"type": "dygie", "token_indexers": {"bert": bert}, "max_span_width": WIDTH},
        "model": {
            "type": "dygie",
            "embedder": {"token_embedders": {"bert": bert}},
            "initializer": {},
            "module_initializer": {},
            "loss_weights": {"ner": 0.2, "relation": 1.0, "coref": 0.0, "events": 0.0},
            "feature_size": FEATURES,
            "max_span_width": WIDTH,
            "target_task": "relation",
            "feedforward_params": {"num_layers": 2, "hidden_dims": hidden, "dropout": 0.4},
            "modules": {
                "coref": {"spans_per_word": 0.3, "max_antecedents": 100, "coref_prop": 0},
                "ner": {},
                "relation": {"spans_per_word": 0.5},
                "events": {
                    "trigger_spans_per_word": 0.3,
                    "argument_spans_per_word": 0.8,
                    "loss_weights": {"trigger": 0.2, "arguments": 1.0},
                },
            },
        },
    }


def write_chexbert(folder: Path, bert: Any) -> None:
    """Write chexbert.pth around a transformers BERT."""
    import torch

    state = {f"module.bert.{key}": value for key, value in bert.state_dict().items()}
    for i, classes in enumerate([4] * 13 + [2]):
        head = torch.nn.Linear(bert.config.hidden_size, classes)
        torch.nn.init.normal_(head.weight, std=0.3)
        torch.nn.init.zeros_(head.bias)
        state |= {f"module.linear_heads.{i}.{key}": value for key, value in head.state_dict().items()}
    # The format before torch.save changed to zip files, in which the published file may be as well.
    path = folder / "chexbert.pth"
    torch.save({"epoch": 7, "model_state_dict": state}, path, _use_new_zipfile_serialization=False)


def write_distilroberta(folder: Path, texts: Iterable[str], vocab_size: int, **config: Any) -> None:
    """Write a RoBERTa with a byte-level BPE made of some texts, as distilroberta-base has one."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaConfig, RobertaForMaskedLM, RobertaTokenizer

    torch.manual_seed(2)
    folder.mkdir()
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts, vocab_size=vocab_size, min_frequency=1, special_tokens=_ROBERTA, show_progress=False)
    bpe.save_model(str(folder))
    RobertaTokenizer.from_pretrained(folder).save_pretrained(folder)
    settings = {"tokenizer_class": "RobertaTokenizer", "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    shape = {"vocab_size": max(bpe.get_vocab_size(), vocab_size), "max_position_embeddings": 514, "type_vocab_size": 1}
    RobertaForMaskedLM(RobertaConfig(**shape, **config)).save_pretrained(folder)
