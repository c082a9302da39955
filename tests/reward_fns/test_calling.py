"""Where and when rewards are called, and with what."""

import asyncio
import threading
import time

import pytest
from toy_rewards import report, toy, values

import reward_fns
from reward_fns.calling import counts
from reward_fns.errors import DataError
from reward_fns.registry import get, reward
from reward_fns.scoring import Rollout, score_batch, score_samples
from reward_fns.spec import resolve

pytestmark = pytest.mark.usefixtures("scratch_registry")


async def half(prediction, reference):
    await asyncio.sleep(0)
    return len(prediction) / 10


async def halves(predictions, references):
    await asyncio.sleep(0)
    return [len(text) / 10 for text in predictions]


@pytest.mark.parametrize(
    ("function", "batched"),
    [
        (half, False),
        (halves, True),
        (lambda prediction, reference: half(prediction, reference), False),
        (lambda predictions, references: halves(predictions, references), True),
    ],
)
def test_async_rewards_stand_next_to_plain_ones(function, batched):
    spec = toy(function, batched=batched)
    assert values(score_batch([report("abc"), report("abcde"), report("")], spec)) == [0.3, 0.5, 0.0]


def test_where_a_reward_runs():
    main, threads = threading.current_thread(), {}

    def named(key, result):
        threads[key] = threading.current_thread()
        return result

    async def awaited(prediction, reference):
        return named("async", 0.0)

    reward("plain", task="report", range=(0, 1))(lambda prediction, reference: named("plain", 0.0))
    reward("slow", task="report", range=(0, 1), blocking=True)(lambda prediction, reference: named("slow", 0.0))
    reward("lists", task="report", range=(0, 1), batched=True)(lambda p, r: named("lists", [0.0]))
    reward("async", task="report", range=(0, 1), blocking=True)(awaited)
    spec = resolve({"report": [{"name": name} for name in ("plain", "slow", "lists", "async")]})
    assert not isinstance(score_batch([report("a")], spec)[0], Exception)
    assert [key for key, thread in threads.items() if thread is main] == ["plain", "async"]
    assert threads["slow"].daemon and threads["lists"].daemon
    assert not get("async").blocking


def test_the_event_loop_lives_while_a_batched_reward_works():
    ticked = threading.Event()
    spec = toy(lambda predictions, references: [float(ticked.wait(20))], batched=True)

    async def run():
        scoring = asyncio.ensure_future(score_samples([report("a")], spec))
        await asyncio.sleep(0.05)
        ticked.set()  # were the loop busy, the reward would wait in vain
        return values(await scoring)

    assert asyncio.run(run()) == [1.0]


def test_calls_under_way_are_bounded_and_waiting_for_a_place_is_no_time_out():
    under_way, most = 0, 0

    async def busy(prediction, reference):
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.15)
        under_way -= 1
        return 1.0

    spec = toy(busy, {"concurrency": 3, "timeout": 1.0, "retries": 0})
    assert values(score_batch([report("a")] * 24, spec)) == [1.0] * 24  # 8 rounds of 0.15 s
    assert most == 3


@pytest.mark.parametrize("is_async", [False, True])
def test_long_lists_reach_a_batched_reward_in_parts(is_async):
    sizes = []

    def plain(predictions, references):
        sizes.append(len(predictions))
        time.sleep(0 if is_async else 0.25)
        return [len(text) / 100 for text in predictions]

    async def awaited(predictions, references):
        await asyncio.sleep(0.25)
        return plain(predictions, references)

    spec = toy(awaited if is_async else plain, {"timeout": 1.0, "retries": 0}, batched=True)
    texts = ["x" * (number % 99 + 1) for number in range(150)]  # 5 calls of 0.25 s
    assert values(score_batch([report(text) for text in texts], spec)) == [len(text) / 100 for text in texts]
    assert sizes == [32] * 4 + [22]


def test_score_batch_inside_a_running_loop():
    spec = toy(half)

    async def notebook():
        return score_batch([report("abc")], spec)

    assert values(asyncio.run(notebook())) == [0.3]


@pytest.mark.parametrize("batched", [False, True])
def test_several_threads_with_a_loop_each(batched):
    spec = toy(halves if batched else half, {"concurrency": 2}, batched=batched)
    found = {}

    def work(number):
        found[number] = values(score_batch([report("x" * (n % 10 + 1)) for n in range(30)], spec))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert list(found.values()) == [[(n % 10 + 1) / 10 for n in range(30)]] * 8
    assert counts()["toy"].samples == 240


def test_a_cancelled_call_cancels_the_scorer():
    ended = []

    async def patient(prediction, reference):
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(1)

    async def run():
        scoring = asyncio.ensure_future(score_samples([report("a")], toy(patient)))
        await asyncio.sleep(0.05)
        scoring.cancel()
        await asyncio.wait({scoring})
        await asyncio.sleep(0)

    asyncio.run(run())
    assert ended == [1]


def test_context_reaches_single_and_batched_rewards():
    seen = {}

    def alone(prediction, reference, output, thinking, reward_router_address, reward_model_tokenizer):
        seen["alone"] = (prediction, output, thinking, reward_router_address, reward_model_tokenizer)
        return 0.0

    def together(predictions, references, output, thinking):
        seen["together"] = (predictions, output, thinking)
        return [0.0] * len(predictions)

    reward("alone", task="report", range=(0, 1))(alone)
    reward("together", task="report", range=(0, 1), batched=True)(together)
    spec = {"report": [{"name": "alone"}, {"name": "together"}]}
    call = reward_fns.compute_score(
        "a/report", "<think>b</think> c", {"report": "d"}, {"thinking": True}, spec=spec,
        reward_router_address="host:1", reward_model_tokenizer="tokenizer", something_new=1,
    )  # fmt: skip
    asyncio.run(call)
    assert seen["alone"] == ("c", "<think>b</think> c", True, "host:1", "tokenizer")
    assert seen["together"] == (["c"], ["<think>b</think> c"], [True])
    score_batch([report("c")], resolve(spec))
    assert seen["alone"] == ("c", "c", False, None, None)


def test_a_reward_for_any_task_appears_once_and_gets_texts():
    seen = []
    reward("anywhere", task="any", range=(0, 1))(
        lambda prediction, reference: seen.append((prediction, reference)) or 0.5
    )
    spec = resolve(
        {
            "report": [{"name": "gleu"}, {"name": "anywhere", "weight": 0.1}],
            "grounding": [{"name": "anywhere", "weight": 2.0}, {"name": "box_iou"}],
        }
    )
    assert spec.reward_names == ["gleu", "anywhere", "box_iou"]
    box = "Here: [0.1, 0.2, 0.5, 0.6]"
    truth = {"boxes": [[0.1, 0.2, 0.5, 0.6]]}
    first, second, third, bad = score_batch(
        [report("clear"), Rollout("a/grounding", box, truth, {}), report(""), Rollout("a/vqa", "x", {}, {})], spec
    )
    assert seen == [("clear", "clear"), (box, "")]
    assert (first["score"], second["score"]) == (pytest.approx(1.05), pytest.approx(2.0))
    assert list(first) == list(second) == list(third)
    assert third["anywhere"] == 0.0 and isinstance(bad, DataError)
