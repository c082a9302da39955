"""RadGraph: the entities of a radiology report and the relations between them."""

from __future__ import annotations

import importlib.metadata
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from reward_fns.errors import UsageError, unknown
from reward_fns.scorers.weights import HubFile, HubFolder, fetch, fetch_folder, pinned_model, unpacked

ModelName = Literal["radgraph", "radgraph-xl", "modern-radgraph-xl"]
Backend = Literal["builtin", "reference"]
REPO = "StanfordAIMI/RRG_scorers"
MAX_CHARS = 2048
"""Where arXiv 2512.10691 cuts a text (its released code)."""


@dataclass(frozen=True, slots=True)
class Entity:
    """Words of a report that mean something.

    Attributes:
        tokens: the words, with a space between them.
        label: such as "OBS-DP" (model radgraph) or "Observation::definitely present" (the others).
        start, end: first and last word, counted from 0.
        relations: type ("modify", "located_at", "suggestive_of") and index, in the annotation, of the entity that
            this one relates to.
    """

    tokens: str
    label: str
    start: int
    end: int
    relations: tuple[tuple[str, int], ...] = ()


Annotation = tuple[Entity, ...]


def annotate(
    texts: Sequence[str],
    *,
    model: str = "radgraph-xl",
    revision: str | None = None,
    max_chars: int = MAX_CHARS,
    repo: str = REPO,
    encoder: str = "",
    backend: Backend = "builtin",
) -> list[Annotation]:
    """The entities of each text, in the order of their first words.

    Equal texts are read once; what a text gets depends on no other one (up to the rounding of a batched sum). Safe to
    call from many threads, which then take turns.

    Args:
        texts: reports. An empty one counts as "None", as in the radgraph package; one of white space has no entities.
        model: radgraph, radgraph-xl or modern-radgraph-xl.
        revision: of the hub repository, "main" by default.
        max_chars: a longer text is cut there before anything else, because time grows with the square of its words;
            0 for no limit.
        repo: hub repository, or local folder, of `<model>.tar.gz`.
        encoder: hub repository, or local folder, with config and tokenizer of the model's encoder; by default the one
            that the archive names.
        backend: "builtin", or "reference" for the radgraph package itself.

    Raises:
        UsageError: unknown model, weights that can't be had or read, or a package that is missing.
    """
    if model not in get_args(ModelName):
        raise UsageError(unknown("RadGraph model", model, get_args(ModelName)))
    where = (model, revision, repo, encoder)
    build = {"builtin": _builtin, "reference": _reference}[backend]
    cut = [text[:max_chars] if max_chars > 0 else text for text in texts]
    distinct = list(dict.fromkeys(cut))
    if not distinct:
        return []
    read = pinned_model(("radgraph", backend, *where), lambda: build(*where))
    found = dict(zip(distinct, read(distinct), strict=True))
    return [found[text] for text in cut]


def sources(model: str, revision: str | None, repo: str, encoder: str) -> Iterator[HubFile | HubFolder]:
    """What a model is read from. Its archive comes first and is fetched on the way, for it names the second."""
    archive = HubFile(repo, f"{model}.tar.gz", revision or "main")
    yield archive
    yield HubFolder(encoder or _encoder(_config(_folder(archive, model))))


def words(text: str, model: str) -> list[str]:
    """The words of a report, split the way each model was trained on.

    >>> words("Heart size (CTR 55%).", "radgraph-xl")
    ['Heart', 'size', '(', 'CTR', '55', '%', ')', '.']
    >>> words("Mild edema,no effusion.", "radgraph")
    ['Mild', 'edema', ',', 'no', 'effusion', '.']
    """
    text = _SURROGATES.sub("\ufffd", text) or "None"
    if model == "radgraph":
        return re.sub(r"([/,:.!?()])", r" \1 ", text).split()
    for old, new in _ESCAPES:
        text = text.replace(old, new)
    text = " ".join(re.findall(r"\w+|[^\w\s]+", text))
    for pair in (").", "%.", ".'", "%,", "%)"):
        text = text.replace(pair, f"{pair[0]} {pair[1]}")
    return text.split()


# Escapes that reports carry when they were written as JSON or PDF text; the order counts.
_ESCAPES = (("\\n", " "), ("\\f", " "), ("\\u2122", " "), ("\n", " "), ('\\"', "``"))
_SURROGATES = re.compile("[\ud800-\udfff]")  # no tokenizer takes them


Reader = Callable[[Sequence[str]], list[Annotation]]


def _builtin(model: str, revision: str | None, repo: str, encoder: str) -> Reader:
    from reward_fns.scorers.radgraph_model import RadGraph

    archive, base = sources(model, revision, repo, encoder)
    assert isinstance(archive, HubFile) and isinstance(base, HubFolder)
    folder = _folder(archive, model)
    network = RadGraph(folder, _config(folder), fetch_folder(base), model)
    return lambda texts: network([words(text, model) for text in texts])


def _folder(archive: HubFile, model: str) -> Path:
    labels = [f"vocabulary/{model}__{kind}_labels.txt" for kind in ("ner", "relation")]
    return unpacked(fetch(archive), model, ["config.json", "weights.th", *labels])


def _config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config


def _encoder(config: dict[str, Any]) -> str:
    return str(config["dataset_reader"]["token_indexers"]["bert"]["model_name"])


def _reference(model: str, revision: str | None, repo: str, encoder: str) -> Reader:
    try:
        version = importlib.metadata.version("transformers")
        from radgraph import RadGraph
    except (importlib.metadata.PackageNotFoundError, ModuleNotFoundError) as error:
        raise UsageError(f"backend reference needs the radgraph package ({error}): {_ENVIRONMENT}") from error
    if int(version.partition(".")[0]) > 4:
        raise UsageError(f"the radgraph package does not run with transformers {version}: {_ENVIRONMENT}")
    if encoder:
        raise UsageError("backend reference takes the encoder that the archive names; leave out option encoder")
    archive = HubFile(repo, f"{model}.tar.gz", revision or "main")
    # The package takes an archive that is unpacked already as it is.
    package = RadGraph(model_type=model, model_cache_dir=str(_folder(archive, model).parent))
    lock = threading.Lock()

    def read(texts: Sequence[str]) -> list[Annotation]:
        with lock:
            found = package(list(texts))
        return [_annotation(found[str(i)]["entities"]) for i in range(len(texts))]

    return read


_ENVIRONMENT = "give it a virtual environment of its own with pip install 'cxr-grpo[reference]'"


def _annotation(entities: Mapping[str, Any]) -> Annotation:
    """From the form of the package, in which entities are counted from 1."""
    return tuple(
        Entity(
            entity["tokens"],
            entity["label"],
            entity["start_ix"],
            entity["end_ix"],
            tuple((kind, int(target) - 1) for kind, target in entity["relations"]),
        )
        for entity in entities.values()
    )
