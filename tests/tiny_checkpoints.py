"""Tiny random checkpoints in the published on-disk formats, for tests without the real weights."""

import io
import json
import tarfile
from pathlib import Path

from reward_fns.scorers.shims import torchvision_operators

torchvision_operators()

_WORDS = """no acute cardiopulmonary abnormality process the heart is enlarged mild pulmonary edema pleural effusion
left right small bilateral pneumothorax there of and with lung lungs are clear normal size opacity opacities atelectasis
consolidation pneumonia unchanged tube terminates above carina cm in seen none"""
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
HIDDEN, FEATURES, WIDTH = 48, 20, 8


def vocabulary():
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return list(dict.fromkeys([*special, *_WORDS.split(), *CHARACTERS, *(f"##{c}" for c in CHARACTERS)]))


def bert_config(**changes):
    from transformers import BertConfig

    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    return BertConfig(**({"vocab_size": len(vocabulary()), "max_position_embeddings": 512} | shape | changes))


def bert_folder(folder, **changes):
    """Config and tokenizer of a tiny BERT, as of bert-base-uncased; returns the folder."""
    bert_config(**changes).save_pretrained(folder)
    (Path(folder) / "vocab.txt").write_text("\n".join(vocabulary()) + "\n")
    tokenizer = {"do_lower_case": True, "tokenizer_class": "BertTokenizer", "model_max_length": 512}
    (Path(folder) / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return Path(folder)


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
    import torch
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(seed)
    network = AutoModel.from_config(AutoConfig.from_pretrained(str(encoder)))
    size = network.config.hidden_size
    prefix = "_embedder.token_embedder_bert._matched_embedder.transformer_model."
    state = {prefix + key: value.clone() for key, value in network.state_dict().items()}

    def linear(name, inputs, outputs):
        state[f"{name}.weight"] = torch.nn.init.xavier_normal_(torch.empty(outputs, inputs))
        state[f"{name}.bias"] = torch.randn(outputs) * 0.1

    def feed_forward(name, inputs):
        linear(f"{name}._linear_layers.0", inputs, HIDDEN)
        linear(f"{name}._linear_layers.1", HIDDEN, HIDDEN)

    def head(name, inputs, outputs):
        feed_forward(f"{name}.0._module", inputs)
        linear(f"{name}.1._module", HIDDEN, outputs)

    span = 2 * size + FEATURES
    state["_endpoint_span_extractor._span_width_embedding.weight"] = torch.randn(WIDTH, FEATURES)
    entities = f"_ner._ner_scorers.{model}__ner_labels"
    head(entities, span, len(LABELS[model]))
    relations = f"{model}__relation_labels"
    head(f"_relation._mention_pruners.{relations}._scorer", span, 1)
    feed_forward(f"_relation._relation_feedforwards.{relations}", 3 * span)
    linear(f"_relation._relation_scorers.{relations}", HIDDEN, len(RELATIONS))
    state[f"{entities}.1._module.bias"] += shift
    state[f"_relation._relation_scorers.{relations}.bias"] += shift / 3
    # Parts for other tasks, which the archives carry along.
    state["_coref._distance_embedding.weight"] = torch.randn(10, FEATURES)
    feed_forward("_coref._antecedent_feedforward._module", 3 * span + FEATURES)
    head("_coref._mention_pruner._scorer", span, 1)
    linear("_coref._antecedent_scorer._module", HIDDEN, 1)
    linear("_coref._f_network._linear_layers.0", 2 * span, span)
    state["_events._distance_embedding.weight"] = torch.randn(10, FEATURES)
    if change:
        change(state)

    weights = io.BytesIO()
    torch.save(state, weights)
    files = {
        "config.json": json.dumps(_radgraph_config(name or str(encoder), settings or {})).encode(),
        "weights.th": weights.getvalue(),
        "vocabulary/non_padded_namespaces.txt": b"*labels\n*tags\n",
        f"vocabulary/{model}__ner_labels.txt": "\n".join(["", *LABELS[model], ""]).encode(),
        f"vocabulary/{model}__relation_labels.txt": "\n".join([*RELATIONS, ""]).encode(),
    }
    path = Path(folder) / f"{model}.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def _radgraph_config(encoder, settings):
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
            "feedforward_params": {"num_layers": 2, "hidden_dims": HIDDEN, "dropout": 0.4},
            "modules": {
                "coref": {"spans_per_word": 0.3, "max_antecedents": 100, "coref_prop": 0},
                "ner": {},
                "relation": {"spans_per_word": 0.5},
                "events": {
                    "trigger_spans_per_word": 0.3,
                    "argument_spans_per_word": 0.8,
                    "loss_weights": {"trigger": 0.2, "arguments": 1.0},
                },
                **settings,
            },
        },
    }
