"""The queue of one model, and the thread that reads what is in it."""

from __future__ import annotations

import concurrent.futures
import contextlib
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from reward_fns.engine.cache import Cache, Store
from reward_fns.models.encoder import batches, device_of
from reward_fns.settings import EngineOptions

Found = TypeVar("Found")

_CHARS = 4  # of a token, about; to know without its tokenizer when there is enough for a batch
_TAKEN = 8  # batches that are taken from the queue at once: the more, the better sorted
_LEAST_BATCH = 64  # tokens to which running out of memory may reduce a batch


_turns: dict[str, threading.Lock] = {}


@dataclass(frozen=True)
class Reader(Generic[Found]):
    """How a model reads texts, in three steps that only its lane's thread takes.

    Attributes:
        tokenise: from texts to (length in tokens, what `encode` wants) of each.
        encode: the model itself, on a batch of those; nothing else uses the device meanwhile.
        decode: from the batch and what `encode` made of it to what is found in each text.
        identity: hash of the weights and of whatever else decides what is found.
        size: bytes of memory that what is found in a text takes.
        pack, unpack: from and to bytes for the disk.
    """

    tokenise: Callable[[Sequence[str]], Sequence[tuple[int, Any]]]
    encode: Callable[[Sequence[Any]], Any]
    decode: Callable[[Sequence[Any], Any], Sequence[Found]]
    identity: str
    size: Callable[[Found], int]
    pack: Callable[[Found], bytes]
    unpack: Callable[[bytes], Found]


@dataclass(eq=False)
class _Entry(Generic[Found]):
    """A text that somebody waits for."""

    text: str
    answer: Future[Found] = field(default_factory=Future)
    readers: int = 0


class Lane(Generic[Found]):
    """A model's queue, its thread and what it has found so far.

    Args:
        name: of its thread.
        reader: of the model.
        options: of the engine.

    Attributes:
        counts: texts that were `asked` for, of which `again` in the same call, `cached` in memory, on `disk`, `joined`
            to somebody else's or `read`; `batches`, their `tokens` and with padding `padded`; `halved` batches;
            `dropped` texts, that nobody waited for any more; `most`, the longest queue.
        seconds: spent to `tokenise`, `encode`, `decode` and, by callers together, to `wait`.
        trouble: why the process is of no more use, if so.
    """

    def __init__(self, name: str, reader: Reader[Found], options: EngineOptions) -> None:
        self.trouble: str | None = None
        self._reader, self._options = reader, options
        self.forget()
        self._device = device_of(options)
        self._budget = options.batch_tokens or (2048 if self._device == "cpu" else 16384)
        self._store = _store(reader, options, self._device)
        self._ready = threading.Condition()
        self._waiting: dict[str, _Entry[Found]] = {}  # in order of arrival
        self._chars = 0  # of those
        self._running: dict[str, _Entry[Found]] = {}
        self._to_store: dict[str, Found] = {}
        self._storing = False
        threading.Thread(target=self._run, name=f"engine {name}", daemon=True).start()

    def forget(self) -> None:
        """Forget what was found and counted."""
        self.counts: Counter[str] = Counter()
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.kept: Cache[Found] = Cache(self._options.cache_mb << 20)

    def flush(self) -> None:
        """Wait until what is to be on disk is there."""
        with self._ready:
            while self._to_store or self._storing:
                self._ready.wait(1.0)

    def read(self, texts: Sequence[str], deadline: float) -> list[Found]:
        """See `reward_fns.engine.lanes.read`."""
        start = time.monotonic()
        found: dict[str, Found] = {}
        asked: dict[str, _Entry[Found]] = {}
        try:
            with self._ready:
                distinct = dict.fromkeys(texts)
                self.counts["asked"] += len(texts)
                self.counts["again"] += len(texts) - len(distinct)
                for text in distinct:
                    hit = self._kept_or_asked(text, deadline)
                    if isinstance(hit, _Entry):
                        asked[text] = hit
                    else:
                        found[text] = hit[0]
                self._ready.notify_all()
            for text, entry in asked.items():
                found[text] = _result(entry, deadline)
        finally:
            with self._ready:
                for entry in asked.values():
                    entry.readers -= 1
                self.seconds["wait"] += time.monotonic() - start
        return [found[text] for text in texts]

    def _kept_or_asked(self, text: str, deadline: float) -> _Entry[Found] | tuple[Found]:
        """What is known of a text, in a tuple, or its entry in the queue; called with the lock held."""
        while True:
            if hit := self.kept.get(text):
                self.counts["cached"] += 1
                if hit[1] and self._store:
                    self._to_store[text] = hit[0]
                return (hit[0],)
            entry = self._running.get(text) or self._waiting.get(text)
            if entry is not None:
                self.counts["joined"] += 1
            elif len(self._waiting) < self._options.queue:
                entry = self._waiting[text] = _Entry(text)
                self._chars += len(text)
                self.counts["most"] = max(self.counts["most"], len(self._waiting))
            if entry is not None:
                entry.readers += 1
                return entry
            self._ready.notify_all()
            left = deadline - time.monotonic()
            if left <= 0 or not self._ready.wait(min(left, threading.TIMEOUT_MAX)):
                raise TimeoutError(f"no place in the queue of {self._options.queue} texts within the time limit")

    def _run(self) -> None:
        """The thread's work: collect, read, answer, for as long as the process lives."""
        while True:
            with self._ready:
                while not (self._waiting or self._to_store):
                    self._ready.wait()
                until = time.monotonic() + self._options.wait_ms / 1000
                while (left := until - time.monotonic()) > 0 and self._chars < self._budget * _CHARS:
                    self._ready.wait(left)
                taken = self._take()
                to_store, self._to_store = self._to_store, {}
                self._storing = bool(to_store)
            try:
                self._serve(taken)
                if self._store:
                    self._store.put({text: self._reader.pack(what) for text, what in to_store.items()})
                with self._ready:
                    self._storing = False
                    self._ready.notify_all()
            except BaseException as error:  # whatever it is: nobody may be left waiting
                for entry in taken:
                    self._fail(entry, error)

    def _take(self) -> list[_Entry[Found]]:
        """The first of the queue, up to a few batches, without those that nobody waits for any more."""
        taken, chars = [], 0
        while self._waiting and chars < self._budget * _CHARS * _TAKEN:
            text = next(iter(self._waiting))
            entry = self._waiting.pop(text)
            self._chars -= len(text)
            if entry.readers == 0:
                self.counts["dropped"] += 1
                continue
            chars += len(text)
            self._running[text] = entry
            taken.append(entry)
        self._ready.notify_all()  # there are places in the queue
        return taken

    def _serve(self, entries: list[_Entry[Found]]) -> None:
        if self._store and entries:
            for text, packed in self._store.get([entry.text for entry in entries]).items():
                self.counts["disk"] += 1
                self._answer(self._running[text], self._reader.unpack(packed))
        prepared = self._prepare([entry for entry in entries if not entry.answer.done()])
        # A CPU is as fast with few texts as with many, so there any padding is a loss.
        spread = 1.1 if self._device == "cpu" else 2.0
        for batch in batches([size for _, (size, _) in prepared], self._budget, spread):
            self._read([prepared[i] for i in batch])

    def _prepare(self, entries: list[_Entry[Found]]) -> list[tuple[_Entry[Found], tuple[int, Any]]]:
        """The entries with their tokens; those whose text no tokenizer takes are answered with its error."""
        if not entries:
            return []
        try:
            with self._time("tokenise"):
                items = self._reader.tokenise([entry.text for entry in entries])
            return list(zip(entries, items, strict=True))
        except Exception as error:
            if len(entries) == 1:
                self._fail(entries[0], error)
                return []
        return [item for entry in entries for item in self._prepare([entry])]

    def _read(self, batch: list[tuple[_Entry[Found], tuple[int, Any]]]) -> None:
        """Read a batch; if that fails, its halves, so that a text fails alone."""
        items = [item for _, (_, item) in batch]
        sizes = [size for _, (size, _) in batch]
        try:
            with _turn(self._device), self._time("encode"):
                encoded = self._reader.encode(items)
            with self._time("decode"):
                found = self._reader.decode(items, encoded)
            for (entry, _), what in zip(batch, found, strict=True):
                self._answer(entry, what)
        except Exception as error:
            self._note(error, len(batch) * max(sizes))
            if len(batch) == 1:
                self._fail(batch[0][0], error)
        else:
            self.counts["read"] += len(batch)
            self.counts["batches"] += 1
            self.counts["tokens"] += sum(sizes)
            self.counts["padded"] += len(batch) * max(sizes)
            return
        if len(batch) > 1:  # not in the handler, where the error still holds the batch's memory
            self.counts["halved"] += 1
            _free(self._device)
            self._read(batch[: len(batch) // 2])
            self._read(batch[len(batch) // 2 :])

    def _note(self, error: Exception, tokens: int) -> None:
        """Draw what there is to learn from a failed batch of so many tokens."""
        if _out_of_memory(error):
            self._budget = max(_LEAST_BATCH, min(self._budget, tokens // 2))
        elif "CUDA error" in str(error):  # after which the process can't use its GPU any more
            self.trouble = repr(error)

    def _answer(self, entry: _Entry[Found], found: Found) -> None:
        if entry.answer.done():
            return
        with self._ready:
            self.kept.put(entry.text, found, self._reader.size(found) + 2 * len(entry.text))
            self._running.pop(entry.text, None)
        entry.answer.set_result(found)

    def _fail(self, entry: _Entry[Found], error: BaseException) -> None:
        if entry.answer.done():
            return
        with self._ready:
            self._running.pop(entry.text, None)
        entry.answer.set_exception(error)

    @contextlib.contextmanager
    def _time(self, what: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[what] += time.perf_counter() - start


def _result(entry: _Entry[Found], deadline: float) -> Found:
    left = max(0.0, min(deadline - time.monotonic(), threading.TIMEOUT_MAX))
    try:
        return entry.answer.result(left)
    except concurrent.futures.TimeoutError:  # no TimeoutError before Python 3.11
        if entry.answer.done():
            raise
        raise TimeoutError("not read within the time limit: the model has too much to do, or is stuck") from None


def _store(reader: Reader[Any], options: EngineOptions, device: str) -> Store | None:
    if not options.cache_dir:
        return None
    parts = reader.identity, options.dtype, options.compile, device.partition(":")[0]
    return Store(Path(options.cache_dir).expanduser(), repr(parts))


def _turn(device: str) -> contextlib.AbstractContextManager[Any]:
    """A CPU's cores are for one model at a time; what a GPU is given to do queues there by itself."""
    return _turns.setdefault(device, threading.Lock()) if device == "cpu" else contextlib.nullcontext()


def after_fork() -> None:
    """A forked process has none of the threads that might hold these locks."""
    _turns.clear()


def _out_of_memory(error: Exception) -> bool:
    import torch

    # A CPU allocator raises no type of its own.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "not enough memory" in str(error)


def _free(device: str) -> None:
    import torch

    if device.startswith("cuda"):
        torch.cuda.empty_cache()
