import importlib
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("torch")
from reward_fns.engine import lanes as engine
from reward_fns.engine.cache import Cache
from reward_fns.engine.lane import Reader
from reward_fns.engine.lanes import lanes
from reward_fns.errors import UsageError
from reward_fns.settings import EngineOptions, using


class Toy:
    """A model that finds a text in capitals, and does on the way what a test wants."""

    numbers = iter(range(1_000_000))

    def __init__(self, before=lambda batch: None):
        self.before, self.batches = before, []
        self.key = "toy", next(self.numbers)

    def encode(self, batch):
        self.batches.append(list(batch))
        self.before(batch)
        return [text.upper() for text in batch]

    def build(self, options):
        return Reader(
            tokenise=lambda texts: [(len(text), text) for text in texts],
            encode=self.encode,
            decode=lambda batch, found: found,
            size=len,
        )

    def __call__(self, texts, timeout=60.0, peers=None, **options):
        with using(EngineOptions(**options), timeout, peers):
            return engine.read(self.key, self.build, texts)

    def lane(self):
        (lane,) = (lane for (key, _), lane in lanes().items() if key == self.key)
        return lane

    def counts(self):
        return self.lane().counts


def words(count):
    return [f"word{i}" + "x" * (i * 7 % 40) for i in range(count)]


def test_answers_come_in_order_and_each_text_is_read_once():
    toy = Toy()
    texts = words(50) * 3
    assert toy(texts, batch_tokens=100) == [text.upper() for text in texts]
    assert toy(texts[::-1], batch_tokens=100) == [text.upper() for text in texts[::-1]]
    assert sorted(text for batch in toy.batches for text in batch) == sorted(words(50))
    assert all(len(batch) * max(map(len, batch)) <= 100 for batch in toy.batches)
    counts = toy.counts()
    assert (counts["asked"], counts["again"], counts["cached"], counts["read"]) == (300, 200, 50, 50)
    assert toy([]) == []


def test_single_texts_of_many_threads_are_read_together():
    toy = Toy()
    texts = words(40) * 4
    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(lambda text: toy([text], wait_ms=200), texts))
    assert found == [[text.upper()] for text in texts]
    assert toy.counts()["read"] == 40
    assert len(toy.batches) < 20


def test_who_asks_for_a_text_that_is_being_read_gets_the_same_answer():
    started, finish = threading.Event(), threading.Event()
    toy = Toy(lambda batch: (started.set(), finish.wait(30)))
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(toy, ["a"])
        assert started.wait(30)
        second = pool.submit(toy, ["a"])
        while not toy.counts()["joined"]:
            time.sleep(0.001)
        finish.set()
        assert first.result() == second.result() == ["A"]
    assert toy.batches == [["a"]]


@pytest.mark.parametrize("error", ["MemoryError()", "OutOfMemoryError", "RuntimeError('not enough memory: tried')"])
def test_a_batch_for_which_memory_does_not_suffice_is_halved(error):
    import torch

    kinds = {"OutOfMemoryError": torch.OutOfMemoryError("CUDA out of memory"), "MemoryError()": MemoryError()}

    def before(batch):
        if sum(map(len, batch)) > 100:
            raise kinds.get(error, RuntimeError("DefaultCPUAllocator: not enough memory: you tried"))

    toy = Toy(before)
    assert toy(words(60)) == [text.upper() for text in words(60)]
    assert toy.counts()["read"] == 60 and toy.counts()["halved"] > 0
    failed = toy.counts()["halved"]
    assert toy([text + "!" for text in words(60)]) == [text.upper() + "!" for text in words(60)]
    assert toy.counts()["halved"] - failed <= 2  # it has learned how much is too much


def test_a_text_that_a_model_cannot_digest_fails_alone():
    def before(batch):
        if "poison" in batch:
            raise ValueError("bad text")

    toy = Toy(before)
    with ThreadPoolExecutor(8) as pool:
        asked = {text: pool.submit(toy, [text], wait_ms=200) for text in [*words(20), "poison"]}
    for text in words(20):
        assert asked[text].result() == [text.upper()]
    with pytest.raises(ValueError, match="bad text"):
        asked["poison"].result()
    assert engine.trouble() is None


def test_a_tokenizer_that_refuses_a_text_fails_for_it_alone():
    toy = Toy()
    plain = toy.build

    def build(options):
        def tokenise(texts):
            assert "poison" not in texts, "no such token"
            return [(1, text) for text in texts]

        return Reader(**(vars(plain(options)) | {"tokenise": tokenise}))

    toy.build = build
    with ThreadPoolExecutor(2) as pool:
        good, bad = (pool.submit(toy, [text], wait_ms=200) for text in ("good", "poison"))
    assert good.result() == ["GOOD"]
    with pytest.raises(AssertionError, match="no such token"):
        bad.result()


def test_no_answer_in_time_and_nothing_is_read_for_nobody():
    started, finish = threading.Event(), threading.Event()
    toy = Toy(lambda batch: (started.set(), finish.wait(30)))
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(toy, ["slow"])
        assert started.wait(30)
        with pytest.raises(TimeoutError, match="not read within the time limit"):
            toy(["given up"], timeout=0.01)
        finish.set()
        assert slow.result() == ["SLOW"]
    assert toy(["next"]) == ["NEXT"]
    assert toy.batches == [["slow"], ["next"]] and toy.counts()["dropped"] == 1


def test_a_full_queue_makes_callers_wait_and_then_fail_in_time():
    started, finish = threading.Event(), threading.Event()
    toy = Toy(lambda batch: (started.set(), finish.wait(30)))
    few = {"queue": 4, "wait_ms": 0.0}
    with ThreadPoolExecutor(8) as pool:
        slow = pool.submit(toy, ["slow"], **few)
        assert started.wait(30)
        many = pool.submit(toy, words(20), **few)  # more than there are places
        while toy.counts()["most"] < 4:
            time.sleep(0.001)
        with pytest.raises(TimeoutError, match="no place in the queue of 4 texts"):
            toy(["late"], timeout=0.01, **few)
        finish.set()
        assert slow.result() == ["SLOW"]
        assert many.result() == [text.upper() for text in words(20)]
    assert sorted(text for batch in toy.batches for text in batch) == sorted([*words(20), "slow"])


def test_a_broken_gpu_is_known():
    def before(batch):
        raise RuntimeError("CUDA error: device-side assert triggered")

    toy = Toy(before)
    try:
        with pytest.raises(RuntimeError, match="CUDA error"):
            toy(["a"])
        assert "device-side assert" in engine.trouble()
    finally:
        engine._lanes.clear()


def test_a_model_that_cannot_be_built_is_tried_again():
    toy, tries = Toy(), []
    plain = toy.build

    def build(options):
        tries.append(options)
        if len(tries) == 1:
            raise UsageError("no weights")
        return plain(options)

    toy.build = build
    with pytest.raises(UsageError, match="no weights"):
        toy(["a"])
    assert toy(["a"]) == ["A"] and len(tries) == 2


def test_the_cache_is_bounded():
    cache = Cache(1000)
    for i in range(200):
        cache.put(str(i), i, 30)
        cache.get(str(i % 40))
    parts = cache._protected, cache._probation
    assert sum(part.bytes for part in parts) <= 1000 and sum(map(len, parts)) <= 33


class Busy:
    """Three steps of a model that note when two threads are in it at once, as a tokenizer does that is borrowed."""

    def __init__(self):
        self.inside, self.collisions = 0, 0

    def step(self, result):
        self.inside += 1
        time.sleep(0.002)
        self.collisions += self.inside > 1
        self.inside -= 1
        return result

    def build(self, options):
        return Reader(
            tokenise=lambda texts: self.step([(len(text), text) for text in texts]),
            encode=lambda batch: batch,
            decode=lambda batch, found: self.step(found),
            size=len,
        )


def test_lanes_with_other_options_take_turns_with_the_reader_that_they_share():
    busy, built = Busy(), []

    def build(options):
        built.append(options)
        return busy.build(options)

    def ask(i):
        with using(EngineOptions(wait_ms=float(i % 4))):
            return engine.read(("busy", id(busy)), build, [f"text {i}"])

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(60))) == [[f"text {i}"] for i in range(60)]
    assert len(built) == 1 and busy.collisions == 0


def test_a_model_is_built_once_for_all_threads():
    toy, built = Toy(), []
    plain = toy.build
    toy.build = lambda options: built.append(time.sleep(0.05)) or plain(options)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: toy([f"{i}"], wait_ms=float(i % 2)), range(8)))
    assert len(built) == 1


@pytest.mark.parametrize("package", ["torch", "transformers"])
def test_a_missing_package_names_the_extra(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    toy = Toy()
    toy.build = lambda options: importlib.import_module(package)
    with pytest.raises(UsageError, match=rf"{package} is not installed.*'cxr-grpo\[scorers\]'"):
        toy(["a"])


def test_another_missing_module_is_not_wrong_use():
    toy = Toy()
    toy.build = lambda options: importlib.import_module("no_such_module")
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        toy(["a"])


class Others:
    """Replicas that own the texts in capitals; `fetch` does what a test wants."""

    def __init__(self, fetch):
        self.asked, self.answer = [], fetch

    def owns(self, text):
        return not text.isupper()

    def fetch(self, key, build, text, timeout):
        self.asked.append(text)
        return self.answer(text)


def shared(toy, others, texts):
    return toy(texts, peers=others)


def test_texts_of_other_replicas_are_fetched_once_and_kept():
    toy, release = Toy(), threading.Event()
    others = Others(lambda text: (release.wait(30), f"{text} from afar")[1])
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(shared, toy, others, ["own", "FAR"]) for _ in range(4)]
        while toy.counts()["joined"] < 3:
            time.sleep(0.001)
        release.set()
        assert [found.result() for found in asked] == [["OWN", "FAR from afar"]] * 4
    assert shared(toy, others, ["FAR"]) == ["FAR from afar"]
    assert others.asked == ["FAR"] and toy.batches == [["own"]]
    assert (toy.counts()["read"], toy.counts()["fetched"]) == (1, 1)


def test_a_text_whose_replica_has_gone_is_read_here():
    def gone(text):
        raise ConnectionError("the replica died")

    toy = Toy()
    assert shared(toy, Others(gone), ["A", "b", "C"]) == ["A", "B", "C"]
    assert toy.counts()["read"] == 3 and toy.counts()["fetched"] == 0


def test_a_replica_that_fetches_from_itself_reads_the_text():
    toy = Toy()
    others = Others(lambda text: toy([text])[0])  # as the router sends it back here, without peers
    assert shared(toy, others, ["MINE"]) == ["MINE"]
    assert toy.counts()["read"] == 1
