"""RadGraph: the entities of a radiology report and the relations between them."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from reward_fns.engine.lane import Reader
from reward_fns.engine.lanes import read
from reward_fns.errors import UsageError, unknown
from reward_fns.models import reference
from reward_fns.models.radgraph_facts import Annotation, size_of
from reward_fns.models.radgraph_facts import Entity as Entity
from reward_fns.models.shims import torchvision_operators
from reward_fns.models.weights import HubFile, HubFolder, fetch, fetch_folder, unpacked
from reward_fns.settings import EngineOptions

if TYPE_CHECKING:
    from reward_fns.models.radgraph_model import Report

ModelName = Literal["radgraph", "radgraph-xl", "modern-radgraph-xl"]
Backend = Literal["builtin", "reference"]
REPO = "StanfordAIMI/RRG_scorers"
MAX_CHARS = 2048  # where arXiv 2512.10691 cuts a text (its released code)
MAX_WORDS = 4096  # always the limit: pairs of spans, 4 million then, grow with the square
_log = logging.getLogger(__name__)


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
    """The entities of each text, in the order of their first words; an empty text counts as "None", as in the package.

    Equal texts are read once; what a text gets depends on no other one (up to the rounding of a batched sum). Safe to
    call from many threads, which then take turns. Raises UsageError for an unknown model, weights or packages.

    Args:
        texts, model: the reports; radgraph, radgraph-xl or modern-radgraph-xl.
        max_chars: a longer text is cut there, because time grows with the square of its words; 0 for no limit.
        repo, revision: hub repository, with its revision ("main"), or local folder, of `<model>.tar.gz`.
        encoder: hub repository, or local folder, of config and tokenizer; by default the one that the archive names.
        backend: "builtin", or "reference" for the radgraph package itself, see `reward_fns.models.reference`.
    """
    if model not in get_args(ModelName):
        raise UsageError(unknown("RadGraph model", model, get_args(ModelName)))
    source = (model, revision, repo, encoder)
    build = {"builtin": _builtin, "reference": _reference}[backend]
    cut = [text[:max_chars] if max_chars > 0 else text for text in texts]
    return read(("radgraph", backend, *source), partial(build, *source), cut)


def sources(model: str, revision: str | None, repo: str, encoder: str) -> Iterator[HubFile | HubFolder]:
    """What a model is read from. Its archive comes first and is fetched on the way, for it names the second."""
    archive = HubFile(repo, f"{model}.tar.gz", revision or "main")
    yield archive
    if not encoder:
        encoder = _config(_folder(archive, model))["dataset_reader"]["token_indexers"]["bert"]["model_name"]
    yield HubFolder(encoder)


def needs(options: Mapping[str, Any]) -> Iterator[HubFile | HubFolder]:
    """`sources` of the options of a reward."""
    return sources(*(options[name] for name in ("model", "revision", "repo", "encoder")))


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


def _builtin(model: str, revision: str | None, repo: str, encoder: str, options: EngineOptions) -> Reader[Annotation]:
    torchvision_operators()
    from reward_fns.models.radgraph_model import RadGraph

    archive, base = sources(model, revision, repo, encoder)
    assert isinstance(archive, HubFile) and isinstance(base, HubFolder)
    folder = _folder(archive, model)
    network = RadGraph(folder, _config(folder), fetch_folder(base), model, options)

    def tokenise(texts: Sequence[str]) -> list[tuple[int, Report]]:
        reports = [words(text, model) for text in texts]
        for report in reports:
            if len(report) > MAX_WORDS:
                _log.warning("RadGraph reads the first %d words of a text that has %d", MAX_WORDS, len(report))
        return network.tokenise([report[:MAX_WORDS] for report in reports])

    return Reader(tokenise, network.encode, network.decode, size_of)


def _folder(archive: HubFile, model: str) -> Path:
    labels = [f"vocabulary/{model}__{kind}_labels.txt" for kind in ("ner", "relation")]
    return unpacked(fetch(archive), model, ["config.json", "weights.th", *labels])


def _config(folder: Path) -> Any:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def _reference(model: str, revision: str | None, repo: str, encoder: str, options: EngineOptions) -> Reader[Annotation]:
    if encoder:
        raise UsageError("backend reference takes the encoder that the archive names; leave out option encoder")
    folder = _folder(HubFile(repo, f"{model}.tar.gz", revision or "main"), model)
    return reference.reader(reference.radgraph(model, folder.parent), size_of)
