import argparse
import socket

import pytest

from data_prep.cli import main
from data_prep.rewrite import asking
from reward_fns.errors import UsageError
from reward_fns.judge.client import Judge


def options(endpoint, *more):
    parser = argparse.ArgumentParser()
    asking.add_arguments(parser, required=True, max_tokens=9)
    return parser.parse_args(["--endpoint", endpoint, "--model", "m", *more])


@pytest.mark.parametrize(
    "endpoint", ["http://127.0.0.1:8000/v1", "http://localhost:1/v1", "http://[::1]:8000/v1", "https://127.9.9.9/v1"]
)
def test_this_machine_needs_no_permission(endpoint):
    assert asking.server(options(endpoint)) == Judge(endpoint, "m", "CXR_GRPO_LLM_KEY", direct=True)


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://api.example.org/v1",
        "http://10.0.0.7:8000/v1",
        "http://node17:8000/v1",
        "http://localhost.example.org/v1",
        "http://127.0.0.1.example.org/v1",
        "http://0.0.0.0:8000/v1",
        "http://127.1:8000/v1",
        "http://2130706433/v1",
        "http://0x7f000001/v1",
        "http://[::ffff:8.8.8.8]/v1",
        "http://[::ffff:127.0.0.1]/v1",
        "http://localhost./v1",
    ],
)
def test_anything_else_does(endpoint):
    with pytest.raises(
        UsageError, match=r"(?s)is not this machine.*only go where their license allows.*--allow-remote"
    ):
        asking.server(options(endpoint))


def test_a_host_of_ones_own_is_named_letter_by_letter():
    named = ("--private-host", "node17", "--private-host", "10.0.0.7")
    assert asking.server(options("http://node17:8000/v1", *named)).direct
    assert asking.server(options("http://10.0.0.7:8000/v1", *named)).direct
    for other in ("node170", "node17.example.org", "xnode17"):
        with pytest.raises(UsageError, match="is not this machine"):
            asking.server(options(f"http://{other}/v1", *named))


def test_a_permitted_server_elsewhere_is_asked_by_https():
    found = asking.server(options("https://api.example.org/v1", "--allow-remote"))
    assert found.base_url == "https://api.example.org/v1" and not found.direct
    with pytest.raises(UsageError, match="unencrypted; use https"):
        asking.server(options("http://api.example.org/v1", "--allow-remote"))


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        ("127.0.0.1:8000/v1", "need http://HOST"),
        ("file:///etc/passwd", "need http://HOST"),
        ("http:///v1", "need http://HOST"),
        ("http://127.0.0.1:99999/v1", "is not a URL"),
        ("http://me:secret@127.0.0.1/v1", "CXR_GRPO_LLM_KEY"),
        ("http://127.0.0.1@example.org/v1", "must not hold a user or a key"),
        ("http://example.org\\@127.0.0.1/v1", "must not hold a user or a key"),
        ("http://example.org\\127.0.0.1/v1", "without"),
        ("http://127.0.0.1/v1?key=secret", "without"),
        ("http://me:secret", "is not a URL"),
        ("http://127.0.0.1\t.example.org/v1", "without"),
        ("http://127.0.0.1 secret/v1", "without"),
    ],
)
def test_what_is_no_endpoint(endpoint, message):
    with pytest.raises(UsageError, match=message) as raised:
        asking.server(options(endpoint))
    assert "secret" not in str(raised.value)


def test_a_local_question_takes_no_proxy_and_no_redirect(judge_server, monkeypatch, tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        port = elsewhere.getsockname()[1]
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
        redirect = (307, {"Location": f"http://127.0.0.1:{port}/v1/chat/completions"}, b"")
        replies = [redirect]
        judge_server.reply = lambda request: replies.pop() if replies else judge_server.usual_reply(request)
        judge_server.answer = lambda prompt: "A clear film."
        (tmp_path / "a.jsonl").write_text('{"report": "A clear film."}\n')
        arguments = ["--endpoint", judge_server.url, "--model", "m", "--yes", "--out", str(tmp_path / "out")]
        assert main(["filter", str(tmp_path / "a.jsonl"), *arguments]) == 1  # the redirect is a failure
        assert main(["filter", str(tmp_path / "a.jsonl"), *arguments]) == 0
        elsewhere.setblocking(False)
        with pytest.raises(BlockingIOError):
            elsewhere.accept()
    assert len(judge_server.requests) == 2


def test_the_mark_of_a_prompt_is_in_none_of_its_texts():
    filled = asking.fill("{mark}|{a}|{b}|{mark}", a="{b} {mark}", b="x")
    mark, a, b, end = filled.split("|")
    assert (a, b, mark) == ("{b} {mark}", "x", end)
    assert mark not in a + b and len(mark) >= 4
