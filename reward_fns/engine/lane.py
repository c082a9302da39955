"""The queue of one model, and the thread that reads the texts in it."""

import concurrent.futures
import contextlib
import math
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic

from reward_fns.engine.cache import Cache, Found
from reward_fns.engine.device import device_of
from reward_fns.settings import EngineOptions

Fetch = Callable[[str, float], Found]

_CHARS = 4  # characters of a token, roughly: tells without a tokenizer whether the queue holds a full batch
_TAKEN = 8  # batches taken from the queue at once: the more, the better they can be sorted by length
_LEAST_BATCH = 64  # tokens; a lack of memory never reduces the batch size below this

_cpu = threading.Lock()  # a CPU's cores are for one model at a time; a GPU queues by itself what it is given


@dataclass(frozen=True)
class Reader(Generic[Found]):
    """How a model reads texts: three steps, which are taken by one thread at a time."""

    tokenise: Callable[[Sequence[str]], Sequence[tuple[int, Any]]]  # to (length in tokens, input of `encode`) of each
    encode: Callable[[Sequence[Any]], Any]  # the model itself, on a batch; nothing else uses a CPU meanwhile
    decode: Callable[[Sequence[Any], Any], Sequence[Found]]  # from the batch and what `encode` returned
    size: Callable[[Found], int]  # bytes of memory that a result takes
    lock: Any = field(default_factory=threading.Lock)  # lanes with different options share a model's reader


@dataclass(eq=False)
class _Entry(Generic[Found]):
    """A text that at least one caller waits for."""

    text: str
    answer: Future[Found] = field(default_factory=Future)
    callers: int = 0


class Lane(Generic[Found]):
    """A model's queue, its thread and its cache of results.

    `trouble` says why the process is of no more use; `seconds` are the time of each step and the callers' `wait`.
    `counts` has texts `asked` for; of these `again` in the same call, `cached`, `joined` to another caller's, `read` or
    `fetched` from another replica; `batches`, their `tokens`, and `padded`, with padding; `halved` batches; `dropped`
    texts, which no caller waited for any more; `most`, the longest queue.
    """

    def __init__(self, name: str, reader: Reader[Found], options: EngineOptions) -> None:
        self.trouble: str | None = None
        self._reader, self._options = reader, options
        self.forget()
        self._device = device_of(options)
        self._budget = options.batch_tokens or (2048 if self._device == "cpu" else 16384)
        self._ready = threading.Condition()
        self._waiting: dict[str, _Entry[Found]] = {}  # in order of arrival
        self._chars = 0  # of the waiting texts
        self._running: dict[str, _Entry[Found]] = {}
        self._fetched: dict[str, _Entry[Found]] = {}  # on their way from another replica
        threading.Thread(target=self._run, name=f"engine {name}", daemon=True).start()

    def forget(self) -> None:
        """Empty the cache and the counters."""
        self.counts: Counter[str] = Counter()
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.cache: Cache[Found] = Cache(self._options.cache_mb << 20)

    def read(
        self,
        texts: Sequence[str],
        deadline: float,
        owns: Callable[[str], bool] | None = None,
        fetch: Fetch[Found] | None = None,
    ) -> list[Found]:
        """See `reward_fns.engine.lanes.read`; texts for which `owns` is false are fetched, unless they are cached."""
        start = time.monotonic()
        results: dict[str, Found] = {}
        asked: dict[str, _Entry[Found]] = {}
        to_fetch: list[_Entry[Found]] = []
        try:
            with self._ready:
                distinct = dict.fromkeys(texts)
                self.counts["asked"] += len(texts)
                self.counts["again"] += len(texts) - len(distinct)
                for text in distinct:
                    result = self.cache.get(text)
                    if result is not None:
                        self.counts["cached"] += 1
                        results[text] = result
                    elif owns is None or owns(text):
                        asked[text] = self._entry(text, deadline)
                    else:
                        asked[text] = entry = self._fetched.setdefault(text, _Entry(text))
                        self.counts["joined"] += entry.callers > 0
                        to_fetch += [entry] if entry.callers == 0 else []
                        entry.callers += 1
                self._ready.notify_all()
            for entry in to_fetch:
                arguments = entry, fetch, deadline
                threading.Thread(target=self._fetch, args=arguments, name="engine fetch", daemon=True).start()
            results |= {text: _result(entry, deadline) for text, entry in asked.items()}
        finally:
            with self._ready:
                for entry in asked.values():
                    entry.callers -= 1
                self.seconds["wait"] += time.monotonic() - start
        return [results[text] for text in texts]

    def _entry(self, text: str, deadline: float) -> _Entry[Found]:
        """The entry of a text to be read here, which is queued if it is new; called with the lock held."""
        while True:
            entry = self._running.get(text) or self._waiting.get(text)
            if entry is not None:
                self.counts["joined"] += 1
            elif len(self._waiting) < self._options.queue:
                entry = self._waiting[text] = _Entry(text)
                self._chars += len(text)
                self.counts["most"] = max(self.counts["most"], len(self._waiting))
            if entry is not None:
                entry.callers += 1
                return entry
            self._ready.notify_all()
            left = deadline - time.monotonic()
            if left <= 0 or not self._ready.wait(min(left, threading.TIMEOUT_MAX)):
                raise TimeoutError(f"no place in the queue of {self._options.queue} texts within the time limit")

    def _fetch(self, entry: _Entry[Found], fetch: Fetch[Found], deadline: float) -> None:
        """Have another replica answer an entry; if that fails, as when it has just died, read the text here."""
        try:
            try:
                result = fetch(entry.text, deadline - time.monotonic())
                self.counts["fetched"] += 1
            except Exception:
                (result,) = self.read([entry.text], deadline)
            self._answer(entry, result)
        except BaseException as error:
            self._fail(entry, error)

    def _run(self) -> None:
        """The thread's work: collect, read, answer, for as long as the process lives."""
        while True:
            with self._ready:
                while not self._waiting:
                    self._ready.wait()
                until = time.monotonic() + self._options.wait_ms / 1000
                while (left := until - time.monotonic()) > 0 and self._chars < self._budget * _CHARS:
                    self._ready.wait(left)
                taken = self._take()
            try:
                prepared = self._prepare(taken)
                # A CPU is as fast with few texts as with many, so there any padding is a loss.
                spread = 1.1 if self._device == "cpu" else 2.0
                for batch in batches([size for _, (size, _) in prepared], self._budget, spread):
                    self._read([prepared[i] for i in batch])
            except BaseException as error:  # of whatever kind: no caller may wait in vain
                for entry in taken:
                    self._fail(entry, error)

    def _take(self) -> list[_Entry[Found]]:
        """The first texts of the queue, enough for a few batches, without those that no caller waits for any more."""
        taken, chars = [], 0
        while self._waiting and chars < self._budget * _CHARS * _TAKEN:
            text = next(iter(self._waiting))
            entry = self._waiting.pop(text)
            self._chars -= len(text)
            if entry.callers == 0:
                self.counts["dropped"] += 1
            else:
                chars += len(text)
                self._running[text] = entry
                taken.append(entry)
        self._ready.notify_all()  # the queue has space again
        return taken

    def _prepare(self, entries: list[_Entry[Found]]) -> list[tuple[_Entry[Found], tuple[int, Any]]]:
        """The entries with their tokens; those that the tokenizer refuses are answered with its error."""
        if not entries:
            return []
        try:
            with self._reader.lock, self._time("tokenise"):
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
        padded = len(batch) * max(sizes)
        try:
            with self._reader.lock:
                with _cpu if self._device == "cpu" else contextlib.nullcontext(), self._time("encode"):
                    encoded = self._reader.encode(items)
                with self._time("decode"):
                    results = self._reader.decode(items, encoded)
            for (entry, _), result in zip(batch, results, strict=True):
                self._answer(entry, result)
        except Exception as error:
            import torch

            # A CPU allocator raises no type of its own.
            if isinstance(error, MemoryError | torch.OutOfMemoryError) or "not enough memory" in str(error):
                self._budget = max(_LEAST_BATCH, min(self._budget, padded // 2))
            elif "CUDA error" in str(error):  # after which the process can't use its GPU any more
                self.trouble = repr(error)
            if len(batch) == 1:
                self._fail(batch[0][0], error)
        else:
            self.counts.update(read=len(batch), batches=1, tokens=sum(sizes), padded=padded)
            return
        if len(batch) > 1:  # not in the handler, where the error still holds the batch's memory
            self.counts["halved"] += 1
            if self._device.startswith("cuda"):
                torch.cuda.empty_cache()
            self._read(batch[: len(batch) // 2])
            self._read(batch[len(batch) // 2 :])

    def _answer(self, entry: _Entry[Found], found: Found) -> None:
        if not entry.answer.done():
            with self._ready:
                self.cache.put(entry.text, found, self._reader.size(found) + 2 * len(entry.text))
                self._end(entry)
            entry.answer.set_result(found)

    def _fail(self, entry: _Entry[Found], error: BaseException) -> None:
        if not entry.answer.done():
            with self._ready:
                self._end(entry)
            entry.answer.set_exception(error)

    def _end(self, entry: _Entry[Found]) -> None:
        for entries in (self._running, self._fetched):
            if entries.get(entry.text) is entry:
                del entries[entry.text]

    @contextlib.contextmanager
    def _time(self, step: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[step] += time.perf_counter() - start


def _result(entry: _Entry[Found], deadline: float) -> Found:
    left = max(0.0, min(deadline - time.monotonic(), threading.TIMEOUT_MAX))
    try:
        return entry.answer.result(left)
    except concurrent.futures.TimeoutError:  # no TimeoutError before Python 3.11
        if entry.answer.done():
            raise
        raise TimeoutError("not read within the time limit: the model has too much to do, or is stuck") from None


def after_fork() -> None:  # a forked process has none of the threads that might hold this lock
    global _cpu
    _cpu = threading.Lock()


def batches(lengths: Sequence[int], tokens: int, spread: float = math.inf) -> Iterator[list[int]]:
    """Indices of all sequences in batches of similar length, so that little of a batch is padding.

    At most `tokens` tokens with padding, unless a longer sequence comes alone; a batch's longest sequence is at most
    `spread` times its shortest, give or take a token.

    >>> list(batches([9, 2, 3, 2], tokens=6)), list(batches([9, 2, 3, 30], tokens=99, spread=2))
    ([[1, 3], [2], [0]], [[1, 2], [0], [3]])
    """
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and ((len(batch) + 1) * lengths[i] > tokens or lengths[i] > lengths[batch[0]] * spread + 1):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
