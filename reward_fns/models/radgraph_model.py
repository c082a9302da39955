"""The network of RadGraph (DyGIE++, arXiv 1909.03546), read from its published archive and run on many reports at once.

Unlike in the radgraph package, reports share a pass through the encoder, and a linear layer over joined vectors,
`W [a; b]`, is computed as `Wa a + Wb b`, once per word instead of once per span or pair.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedTokenizerFast

from reward_fns.engine.device import device_of
from reward_fns.errors import UsageError
from reward_fns.models.encoder import Encoder
from reward_fns.models.radgraph_facts import Annotation, Entity
from reward_fns.settings import EngineOptions

_ENCODER = "_embedder.token_embedder_bert._matched_embedder.transformer_model."
_WIDTHS = "_endpoint_span_extractor._span_width_embedding.weight"
# Parts of the archive for tasks that RadGraph does not have, and heads for other data sets.
_UNUSED = ("_coref.", "_events.", "_ner._ner_scorers.", "_relation.")
_BLOCK = 1 << 24  # numbers in one block of the pairs' layer, 64 MiB
_CACHE = 100_000  # words whose wordpieces are kept

Layers = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Layout:
    """Rows of at most `length` wordpieces with their special tokens, and where in them each piece's vector is read.

    Unless `marked` (tokenizers without an own class, as ModernBERT's) the package leaves the special tokens out, yet
    reads vectors as if they were there; the weights were trained so.
    """

    head: list[int]
    tail: list[int]
    length: int
    marked: bool = True

    def rows(self, pieces: list[int]) -> list[list[int]]:
        """The encoder's input for one report, cut wherever a row is full.

        >>> Layout([1], [2], 5).rows([7, 8, 9, 10])
        [[1, 7, 8, 9, 2], [1, 10, 2]]
        """
        step = self._inner if self.marked else self.length
        parts = [pieces[i : i + step] for i in range(0, len(pieces), step)]
        return [self.head + part + self.tail for part in parts] if self.marked else parts

    def places(self, count: int) -> list[tuple[int, int] | None]:
        """Row and column of the vector of each of a report's pieces, or None where the package has none.

        >>> Layout([1], [2], 5).places(4), Layout([1], [2], 5, marked=False).places(4)
        ([(0, 1), (0, 2), (0, 3), (1, 1)], [(0, 1), (0, 2), (0, 3), None])
        """
        start = len(self.head)
        inside = [(i // self._inner, start + i % self._inner) for i in range(count)]
        if self.marked:
            return [*inside]
        if count <= self.length:
            return [(0, i + start) if i + start < count else None for i in range(count)]
        # The package drops what it takes for special tokens in each row, then puts the last vector behind the rest.
        rows = -(-count // self.length)
        last = count - (len(self.head) + len(self.tail)) * rows
        return [*inside[:last], divmod(count - 1, self.length), *[None] * (count - last - 1)]

    @property
    def _inner(self) -> int:
        return self.length - len(self.head) - len(self.tail)


class Report(NamedTuple):
    words: Sequence[str]
    pieces: list[list[int]]  # the wordpieces of each word


class Marks(NamedTuple):
    """What the network says about a report, on the CPU."""

    of_spans: Tensor  # first word (counted over the batch), width less 1 and label of every span: shape (3, spans)
    top: Tensor  # spans that may be related, by their index
    pairs: Tensor  # label of the relation of each pair of these, row by row


class RadGraph:
    """A model from an unpacked archive, for one thread at a time; what follows the encoder is always float32."""

    def __init__(
        self, folder: Path, config: Mapping[str, Any], encoder: Path, name: str, options: EngineOptions
    ) -> None:
        settings = config["model"]
        coreference = settings["modules"].get("coref", {}).get("coref_prop", 0)
        if coreference or settings["loss_weights"].get("coref", 0) > 0:
            raise UsageError(f"{folder} uses coreference, which RadGraph does not have; set backend to reference")
        self._max_width: int = settings["max_span_width"]
        self._spans_per_word: float = settings["modules"]["relation"]["spans_per_word"]
        files = (folder / f"vocabulary/{name}__{kind}_labels.txt" for kind in ("ner", "relation"))
        self._entity_labels, self._relation_labels = (file.read_text("utf-8").splitlines() for file in files)

        tokenizer = AutoTokenizer.from_pretrained(str(encoder))
        tokenizer.model_max_length = 1 << 30  # no warning: a long word is laid out over several rows
        whole, bare = (tokenizer(["a"], add_special_tokens=own)["input_ids"][0] for own in (True, False))
        at = whole.index(bare[0])
        length = config["dataset_reader"]["token_indexers"]["bert"].get("max_length")
        marked = length is None or type(tokenizer) is not PreTrainedTokenizerFast
        self._layout = Layout(whole[:at], whole[at + len(bare) :], length or 1 << 30, marked)
        self._known: dict[str, list[int]] = {}

        state = torch.load(folder / "weights.th", map_location=device_of(options), weights_only=True)
        self._read(state, folder, name, settings["feedforward_params"]["num_layers"])
        model = AutoModel.from_config(AutoConfig.from_pretrained(str(encoder)), dtype=torch.float32)
        own = {key.removeprefix(_ENCODER): state[key] for key in state if key.startswith(_ENCODER)}
        own.pop("embeddings.position_ids", None)  # a constant that old transformers wrote down
        ours, theirs = ({k: v.shape for k, v in side.items()} for side in (own, model.state_dict()))
        if differing := sorted({key for key, _ in ours.items() ^ theirs.items()}):
            raise UsageError(
                f"encoder {encoder} does not fit {folder / 'weights.th'}: {len(differing)} weights are missing "
                f"in one of them or differ in shape, first {differing[0]}; is it the archive's own encoder?"
            )
        model.load_state_dict(own)
        self._size: int = model.config.hidden_size
        self._encoder = Encoder(model, tokenizer, options)

    def tokenise(self, reports: Sequence[Sequence[str]]) -> list[tuple[int, Report]]:
        """Number of wordpieces, and all that the next steps need, of reports given as their words."""
        if len(self._known) > _CACHE:
            self._known = {}
        new = sorted({word for report in reports for word in report} - self._known.keys())
        # The package's reader takes these two for a full stop and a question mark.
        spelled = [word[1:] if word in ("/.", "/?") else word for word in new]
        pieces = self._encoder.tokenizer(spelled, add_special_tokens=False)["input_ids"] if new else []
        self._known.update(zip(new, pieces, strict=True))
        tokenised = [Report(words, [self._known[word] for word in words]) for words in reports]
        return [(sum(map(len, report.pieces)), report) for report in tokenised]

    def _read(self, state: Mapping[str, Tensor], folder: Path, name: str, depth: int) -> None:
        """Pick the heads out of the weights, and check that nothing is missing or left."""

        def layers(prefix: str, last: str) -> Layers:
            parts = [*(f"{prefix}._linear_layers.{i}" for i in range(depth)), last]
            return [(state[f"{part}.weight"].float(), state[f"{part}.bias"].float()) for part in parts]

        ner = f"_ner._ner_scorers.{name}__ner_labels"
        mention = f"_relation._mention_pruners.{name}__relation_labels._scorer"
        pair = [f"_relation._relation_{part}.{name}__relation_labels" for part in ("feedforwards", "scorers")]
        try:
            self._width_vectors = state[_WIDTHS].float()
            self._entity_head = layers(f"{ner}.0._module", f"{ner}.1._module")
            self._mention_head = layers(f"{mention}.0._module", f"{mention}.1._module")
            self._pair_head = layers(pair[0], pair[1])
        except KeyError as error:
            raise UsageError(f"{folder / 'weights.th'} has no {error}: not an archive of model {name}") from error
        if left := sorted(key for key in state if not key.startswith((_ENCODER, *_UNUSED)) and key != _WIDTHS):
            raise UsageError(f"{folder / 'weights.th'} has weights that RadGraph does not: {', '.join(left[:3])}")
        # Null, "no entity", is the first entity label and has no weights; for relations it is not in the list.
        outputs = len(self._entity_head[-1][1]), len(self._pair_head[-1][1])
        if self._entity_labels[:1] != [""] or outputs != (len(self._entity_labels) - 1, len(self._relation_labels)):
            raise UsageError(f"labels in {folder / 'vocabulary'} don't fit the weights, which have {outputs} of them")

    @torch.inference_mode()
    def encode(self, reports: Sequence[Report]) -> list[Marks]:
        """What the network says about reports."""
        lengths = [len(report.words) for report in reports]
        vectors = self._embed(reports)
        if not vectors.isfinite().all():  # would look like a report without entities
            raise FloatingPointError("RadGraph's encoder returned numbers that are not finite")
        # Spans of all reports, by first word and then by width; none reaches into the next report.
        lasts = torch.arange(len(vectors), device=self._encoder.device)[:, None] + self._tensor(range(self._max_width))
        bounds = self._tensor(lengths)
        start, width = (lasts < bounds.cumsum(0).repeat_interleave(bounds)[:, None]).nonzero(as_tuple=True)
        counts = [sum(min(self._max_width, n - i) for i in range(n)) for n in lengths]
        labels = _best(self._over_spans(self._entity_head, vectors, start, width))
        mentions = self._over_spans(self._mention_head, vectors, start, width).squeeze(-1)

        chosen, related = [], []
        offset = 0
        for n, scores in zip(lengths, mentions.split(counts), strict=True):
            keep = int(torch.ceil(torch.tensor(float(n)) * self._spans_per_word))  # float32, as the package has it
            top = scores.topk(min(keep, len(scores))).indices.sort().values
            at = top + offset
            spans = torch.cat([vectors[start[at]], vectors[start[at] + width[at]], self._width_vectors[width[at]]], -1)
            chosen.append(top)
            related.append(self._relations(spans, scores[top]).flatten())
            offset += len(scores)
        # One transfer of each: every transfer waits for the device.
        of_spans = torch.stack([start, width, labels]).cpu().split(counts, dim=1)
        tops = torch.cat(chosen).cpu().split([len(top) for top in chosen])
        pairs = torch.cat(related).cpu().split([len(top) ** 2 for top in chosen])
        return [Marks(*of_report) for of_report in zip(of_spans, tops, pairs, strict=True)]

    def decode(self, reports: Sequence[Report], marks: Sequence[Marks]) -> list[Annotation]:
        """The annotations of reports, from what the network says about them."""
        return [self._decode(a.words, b) for a, b in zip(reports, marks, strict=True)]

    def _embed(self, reports: Sequence[Report]) -> Tensor:
        """A vector for each word of all reports: the mean of its wordpieces, or 0 if it has none."""
        rows: list[list[int]] = []
        places: list[tuple[int, int, int]] = []  # row, column and word
        total = 0
        for report in reports:
            pieces = [(piece, total + at) for at, of_word in enumerate(report.pieces) for piece in of_word]
            for (_, word), position in zip(pieces, self._layout.places(len(pieces)), strict=True):
                if position is not None:
                    places.append((len(rows) + position[0], position[1], word))
            rows += self._layout.rows([piece for piece, _ in pieces])
            total += len(report.words)
        sums = torch.zeros(total, self._size, device=self._encoder.device)
        if not places:
            return sums
        at_row, at_column, of_word = self._tensor(places).unbind(1)
        sums.index_add_(0, of_word, self._encoder.encode(rows)[at_row, at_column])
        return sums / of_word.bincount(minlength=total).clamp_min(1)[:, None]

    def _over_spans(self, head: Layers, vectors: Tensor, start: Tensor, width: Tensor) -> Tensor:
        """A feed-forward head over [first word; last word; width] of each span."""
        (weight, bias), *rest = head
        size = vectors.shape[-1]
        first, last = (F.linear(vectors, weight[:, i * size : (i + 1) * size]) for i in (0, 1))
        widths = F.linear(self._width_vectors, weight[:, 2 * size :], bias)
        return _forward(rest, first[start] + last[start + width] + widths[width])

    def _relations(self, spans: Tensor, mentions: Tensor) -> Tensor:
        """Label of each pair of spans, 0 for none, from the head over [one; other; their product]."""
        (weight, bias), *rest = self._pair_head
        size = spans.shape[-1]
        one, other, product = weight.split(size, dim=1)
        ones, others = F.linear(spans, one, bias), F.linear(spans, other)
        step = max(1, _BLOCK // (len(bias) * max(size, len(spans))))
        labels = []
        for block, of_block, mention in zip(*(side.split(step) for side in (spans, ones, mentions)), strict=True):
            products = (block[:, None] * product) @ spans.T  # (rows of the block, outputs, spans)
            scores = _forward(rest, of_block[:, None] + others + products.transpose(1, 2))
            labels.append(_best(scores + (mention[:, None] + mentions)[..., None]))
        return torch.cat(labels)

    def _decode(self, report: Sequence[str], marks: Marks) -> Annotation:
        start, width, label = marks.of_spans.tolist()
        entities = [i for i, of_span in enumerate(label) if of_span]
        index_of = {span: at for at, span in enumerate(entities)}
        spans = marks.top.tolist()
        relations = defaultdict(list)
        table = marks.pairs.reshape(len(spans), len(spans))
        for i, j in table.nonzero().tolist():
            if spans[i] in index_of and spans[j] in index_of:
                relations[spans[i]].append((self._relation_labels[int(table[i, j]) - 1], index_of[spans[j]]))
        # Words were counted over the batch.
        bounds = ((i, start[i] - start[0], start[i] - start[0] + width[i]) for i in entities)
        return tuple(
            Entity(" ".join(report[a : b + 1]), self._entity_labels[label[i]], a, b, tuple(relations[i]))
            for i, a, b in bounds
        )

    def _tensor(self, values: Any) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=self._encoder.device)


def _forward(layers: Layers, hidden: Tensor) -> Tensor:  # what follows a head's first layer, whose sums are given
    for weight, bias in layers:
        hidden = F.linear(F.relu(hidden), weight, bias)
    return hidden


def _best(scores: Tensor) -> Tensor:
    """The label of the highest score, counted from 1, or 0 where none is above 0, the score of "nothing"."""
    best, label = scores.max(-1)
    return torch.where(best > 0, label + 1, 0)
