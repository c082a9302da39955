import asyncio
import json
import socket
import sys
import threading
import time

import pytest

from reward_fns.errors import UsageError
from reward_fns.judge.client import Judge, JudgeFailure, locate

JSON = {"Content-Type": "application/json"}


def complete(server, prompt="p", **more):
    judge = Judge(more.pop("url", server.url), "m")
    return asyncio.run(judge.complete(prompt, max_tokens=9, stop="</s>"))


def test_a_completion(judge_server):
    judge_server.answer = lambda prompt: f"to {prompt}"
    assert complete(judge_server) == ("to p", True)
    (request,) = judge_server.requests
    assert request == {
        "path": "/v1/completions", "authorization": "Bearer none", "model": "m", "prompt": "p", "temperature": 0.0,
        "max_tokens": 9, "stop": "</s>",
    }  # fmt: skip


def test_a_chat(judge_server):
    judge_server.answer = lambda prompt: f"to {prompt}"
    answer = asyncio.run(Judge(judge_server.url, "m").chat("hello", max_tokens=9, schema={"type": "object"}))
    assert answer == ("to hello", True)
    (request,) = judge_server.requests
    assert (request["path"], request["temperature"]) == ("/v1/chat/completions", 0.0)
    assert request["messages"] == [{"role": "user", "content": "hello"}]
    assert request["response_format"]["json_schema"]["schema"] == {"type": "object"}


def test_the_key_comes_from_its_own_variable_only(judge_server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "for someone else")
    complete(judge_server)
    monkeypatch.setenv("CXR_GRPO_JUDGE_KEY", "secret")
    complete(judge_server)
    assert [request["authorization"] for request in judge_server.requests] == ["Bearer none", "Bearer secret"]


def test_a_cut_answer_is_not_complete(judge_server):
    judge_server.finish_reason = "length"
    assert not complete(judge_server).complete


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_trouble_is_tried_again(judge_server, status):
    troubles = [(status, {"Retry-After": "0.01"}, b"busy")] * 2
    judge_server.reply = lambda request: troubles.pop() if troubles else judge_server.usual_reply(request)
    judge_server.answer = lambda prompt: "well"
    assert complete(judge_server).text == "well" and len(judge_server.requests) == 3


@pytest.mark.parametrize(
    ("reply", "message", "requests"),
    [
        ((500, {"Retry-After": "0.01"}, b"broken"), "InternalServerError", 3),
        ((429, {"Retry-After": "0.01"}, b"slow down"), "RateLimitError", 3),
        ((404, JSON, b'{"error": {"message": "model m does not exist"}}'), "model m does not exist", 1),
        ((401, JSON, b"{}"), "AuthenticationError", 1),
        ((400, JSON, b'{"error": {"message": "prompt too long"}}'), "prompt too long", 1),
        ((200, {"Content-Type": "text/html"}, b"<html>Welcome"), "sent no completion, but '<html>Welcome'", 1),
        ((200, JSON, b'{"choices": '), "JSONDecodeError", 1),
        ((200, JSON, b"\xff\xfe"), "model 'm' at http", 1),
        ((200, JSON, b"[]"), "sent no completion", 1),
        ((200, JSON, b"{}"), "sent no completion", 1),
        ((200, JSON, b'{"choices": []}'), "sent no completion", 1),
        ((200, JSON, b'{"choices": [{"text": null, "finish_reason": "stop"}]}'), "sent no completion", 1),
    ],
)
def test_trouble_that_stays(judge_server, reply, message, requests):
    judge_server.reply = lambda request: reply
    with pytest.raises(JudgeFailure, match=message):
        complete(judge_server)
    assert len(judge_server.requests) == requests


def test_nobody_there(judge_server):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
    with pytest.raises(JudgeFailure, match=f"model 'm' at {url}: APIConnectionError"):
        complete(judge_server, url=url)


def test_a_cancelled_question_lets_go_of_the_server(judge_server):
    judge_server.reply = lambda request: judge_server.stopped.wait(60) and (200, JSON, b"{}")

    async def run():
        await asyncio.wait_for(Judge(judge_server.url, "m").complete("p", max_tokens=9, stop="x"), 0.2)

    start = time.monotonic()
    with pytest.raises(TimeoutError):
        asyncio.run(run())
    assert time.monotonic() - start < 30  # the server would take a minute


def test_many_loops_share_the_connections(judge_server):
    judge_server.answer = lambda prompt: prompt
    found = []

    def work(number):
        for turn in range(5):  # a new loop each time
            found.append(complete(judge_server, f"{number}/{turn}").text == f"{number}/{turn}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == [True] * 30


@pytest.mark.parametrize(
    ("option", "router", "variable", "url"),
    [
        ("https://a/v1", "host:1", "https://env/v1", "https://a/v1"),
        ("", "host:1", "https://env/v1", "http://host:1/v1"),
        ("", None, "https://env/v1", "https://env/v1"),
        ("", "[::1]:5", None, "http://[::1]:5/v1"),
    ],
)
def test_which_server(monkeypatch, option, router, variable, url):
    monkeypatch.setenv("CXR_GRPO_JUDGE_URL", variable or "")
    assert locate(option, "m", router).base_url == url


def test_which_model(monkeypatch):
    monkeypatch.setenv("CXR_GRPO_JUDGE_MODEL", "from the environment")
    assert locate("https://a/v1", "from the option", None, "default").model == "from the option"
    assert locate("https://a/v1", "", None, "default").model == "from the environment"
    monkeypatch.delenv("CXR_GRPO_JUDGE_MODEL")
    assert locate("https://a/v1", "", None, "default").model == "default"


def test_no_judge_is_ever_assumed(monkeypatch):
    for name in ("CXR_GRPO_JUDGE_URL", "CXR_GRPO_JUDGE_MODEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    with pytest.raises(UsageError, match="set option base_url or the environment variable CXR_GRPO_JUDGE_URL"):
        locate("", "m", None)
    with pytest.raises(UsageError, match="set option model or the environment variable CXR_GRPO_JUDGE_MODEL"):
        locate("https://a/v1", "", None)


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(UsageError, match=r"pip install 'cxr-grpo\[judge\]'"):
        locate("https://a/v1", "m", None)


def test_odd_texts_travel(judge_server):
    judge_server.answer = lambda prompt: prompt
    text = json.loads('"\\u0000 \\u202e \\ud83d\\ude00"')
    assert complete(judge_server, text).text == text
