import asyncio
import math
import time

import pytest

pytest.importorskip("verl")

from recipe.cxr_grpo.demo import architecture


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    from recipe.cxr_grpo.cpu.hf_rollout import BatchedGenerator

    out = tmp_path_factory.mktemp("model")
    architecture.write_random(out, hidden_size=64, layers=1)
    return BatchedGenerator(str(out), max_new_tokens=32)


def answers(generator, **sampling):
    import torch

    async def all_at_once():
        generator.loop_task = None  # of another event loop
        generator.queue = asyncio.Queue()
        return await asyncio.gather(*(generator.generate([5, 6, 7], sampling, None) for _ in range(64)))

    torch.manual_seed(0)
    return asyncio.run(all_at_once())


def test_places_for_pictures_are_never_sampled(generator, monkeypatch):
    banned = set(generator.banned_ids)
    assert generator.image_token_id in banned
    found = answers(generator, temperature=3.0)
    assert not banned.intersection(token for tokens, _ in found for token in tokens)
    assert all(len(tokens) == len(values) and all(map(math.isfinite, values)) for tokens, values in found)
    monkeypatch.setattr(generator, "banned_ids", [])
    assert banned.intersection(token for tokens, _ in answers(generator, temperature=3.0) for token in tokens)


def test_greedy_answers_are_the_same_and_end_at_the_end_token(generator):
    found = answers(generator, temperature=0)
    assert len({tuple(tokens) for tokens, _ in found}) == 1
    for tokens, _ in found:
        assert len(tokens) <= 32 and not generator.eos_ids.intersection(tokens[:-1])


def test_a_cancelled_request_leaves_the_others_of_its_batch_alone(generator, monkeypatch):
    async def one_cancelled():
        generator.loop_task = None
        generator.queue = asyncio.Queue()
        requests = [asyncio.create_task(generator.generate([5, 6, 7], {"temperature": 0}, None)) for _ in range(3)]
        await started.wait()
        requests[0].cancel()
        return await asyncio.gather(*requests, return_exceptions=True)

    started = asyncio.Event()
    generate = generator._generate

    def slow(batch):
        loop.call_soon_threadsafe(started.set)
        time.sleep(0.2)
        return generate(batch)

    monkeypatch.setattr(generator, "_generate", slow)
    loop = asyncio.new_event_loop()
    try:
        cancelled, *others = loop.run_until_complete(one_cancelled())
        generator.loop_task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
    finally:
        loop.close()
    assert isinstance(cancelled, asyncio.CancelledError)
    assert [type(answer) for answer in others] == [tuple, tuple]
