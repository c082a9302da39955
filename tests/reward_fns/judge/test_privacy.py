"""Reports and keys go to the server that the user named, and to nobody else."""

import asyncio
import contextlib
import gzip
import json
import socket
import threading
import traceback

import fake_openai
import pytest

from reward_fns.errors import UsageError
from reward_fns.judge import client
from reward_fns.judge.client import KEY, PROXY, Judge, JudgeFailure, UnusableAnswer, locate, server

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
SECRET = 'sk-"quoted"-0123456789'


def ask(judge, kind="chat"):
    if kind == "chat":
        return asyncio.run(judge.chat("a report", max_tokens=9))
    return asyncio.run(judge.complete("a report", max_tokens=9, stop="x"))


@pytest.fixture
def listener():
    """Address of a server that accepts, and what it received."""
    received = []
    with socket.create_server(("127.0.0.1", 0)) as place:

        def accept():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = place.accept()
                    with connection:
                        received.append(connection.recv(10_000))

        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{place.getsockname()[1]}", received


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("direct", [True, False])
def test_no_redirect_is_followed(judge_server, status, direct):
    with fake_openai.serving() as elsewhere:
        location = {"Location": f"{elsewhere.url}/chat/completions"}
        judge_server.reply = lambda request: (status, location, b"")
        with pytest.raises(JudgeFailure, match="no redirect is followed"):
            ask(Judge(judge_server.url, "m", direct=direct))
        assert elsewhere.requests == [] and len(judge_server.requests) == 1


def test_the_proxies_of_the_environment_get_nothing(judge_server, listener, monkeypatch):
    address, received = listener
    for name in PROXIES:
        monkeypatch.setenv(name, f"http://{address}")
    judge_server.answer = lambda prompt: "well"
    for direct in (True, False):
        assert ask(Judge(judge_server.url, "m", direct=direct)).text == "well"
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(JudgeFailure, match="APIConnectionError"):
        ask(Judge(f"https://127.0.0.1:{port}/v1", "m", direct=False))
    assert received == []


def test_a_proxy_of_our_own_is_asked_for_other_machines_only(judge_server, listener, monkeypatch):
    address, received = listener
    monkeypatch.setenv(PROXY, f"http://me:{SECRET.replace(chr(34), '')}@{address}")
    judge_server.answer = lambda prompt: "well"
    assert ask(locate(judge_server.url, "m", None)).text == "well"
    assert ask(locate("", "m", judge_server.url.removeprefix("http://").removesuffix("/v1"))).text == "well"
    assert received == []
    judge = locate("https://judge.example.org/v1", "m", None)
    with pytest.raises(JudgeFailure) as raised:
        ask(judge)
    assert received[0].startswith(b"CONNECT judge.example.org:443 ") and b"a report" not in b"".join(received)
    assert "0123456789" not in str(raised.value)
    monkeypatch.setenv(PROXY, "me:secret@host")
    with pytest.raises(UsageError, match=f"{PROXY} must be a URL") as refused:
        ask(judge)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "own", "direct"),
    [
        ("http://127.0.0.1:8000/v1", True, True),
        ("https://localhost/v1", True, True),
        ("https://10.1.2.3/v1", False, True),
        ("https://[fd00::1]/v1", False, True),
        ("http://node7:8000/v1", False, True),
        ("https://judge.example.org/v1", False, False),
        ("https://8.8.8.8/v1", False, False),
        ("https://mine/v1", True, True),
    ],
)
def test_which_hosts_no_proxy_stands_before(url, own, direct):
    found = server(url, "base_url", KEY, own_hosts=["Mine"])
    assert (found.own, found.direct) == (own, direct)


def test_reports_cross_a_network_encrypted_unless_the_user_says_otherwise(monkeypatch):
    for url in ("http://judge.example.org/v1", "http://10.1.2.3:8000/v1", "http://node7:8000/v1"):
        with pytest.raises(UsageError, match=r"unencrypted: use https.*allow_http: true"):
            locate(url, "m", None)
        assert locate(url, "m", None, allow_http=True).base_url == url
        monkeypatch.setenv("CXR_GRPO_JUDGE_URL", url)
        with pytest.raises(UsageError, match="unencrypted"):
            locate("", "m", None)
        monkeypatch.setenv("CXR_GRPO_JUDGE_ALLOW_HTTP", "yes")
        assert locate("", "m", None).base_url == url
        with pytest.raises(UsageError, match="unencrypted"):
            locate(url, "m", None)  # the permission is for the judge of the environment
        monkeypatch.delenv("CXR_GRPO_JUDGE_ALLOW_HTTP")
    assert locate("", "m", "10.1.2.3:4000") == Judge("http://10.1.2.3:4000/v1", "m", direct=True)  # verl's router


@pytest.mark.parametrize(
    "url",
    ["http://me:hunter2@127.0.0.1/v1", "ftp://me:hunter2@host/", "http://me:hunter2", "https://host/v1?key=hunter2"],
)
def test_a_secret_in_the_url_is_refused_and_not_shown(url):
    with pytest.raises(UsageError) as raised:
        locate(url, "m", None)
    assert "hunter2" not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize("status", [200, 400, 401, 403, 500])
@pytest.mark.parametrize("kind", ["chat", "completions"])
def test_a_key_that_a_server_echoes_is_in_no_message(judge_server, monkeypatch, status, kind):
    monkeypatch.setenv(KEY, f"{SECRET}\n")

    def echo(request):
        told = {"error": {"message": f"bad header {judge_server.headers[-1]}", "code": SECRET}}
        return status, {"Content-Type": "application/json", "Retry-After": "0.01"}, json.dumps(told).encode()

    judge_server.reply = echo
    with pytest.raises(JudgeFailure) as raised:
        ask(Judge(judge_server.url, "m"), kind)
    assert judge_server.headers[0]["authorization"] == f"Bearer {SECRET}"
    assert isinstance(raised.value, UnusableAnswer) == (status == 400)
    shown = "".join(traceback.format_exception(raised.value))
    assert "0123456789" not in shown and "***" in shown


@pytest.mark.parametrize("key", ["sécret-0123", "secret 0123", "secret\x010123"])
def test_what_cannot_be_a_key_is_refused_and_not_shown(judge_server, monkeypatch, key):
    monkeypatch.setenv(KEY, key)
    with pytest.raises(UsageError, match=KEY) as raised:
        ask(Judge(judge_server.url, "m"))
    assert "0123" not in "".join(traceback.format_exception(raised.value)) and judge_server.requests == []


def test_nothing_of_another_account_reaches_the_judge(judge_server, monkeypatch):
    for name in ("ORG_ID", "PROJECT_ID", "API_KEY", "ADMIN_KEY", "WEBHOOK_SECRET"):
        monkeypatch.setenv(f"OPENAI_{name}", "of-another-account")
    custom = ["Authorization: of-another-account", "X-Tenant: of-another-account", "Cookie: of-another-account"]
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "\n".join(custom))
    client._client.cache_clear()
    for kind in ("chat", "completions"):
        ask(Judge(judge_server.url, "m"), kind)
    for headers in judge_server.headers:
        assert headers.keys() <= {"host", "authorization", "content-type", "content-length", "accept",
                                  "accept-encoding", "user-agent", "connection"}  # fmt: skip
        assert headers["authorization"] == "Bearer none" and "another" not in str(headers)


@pytest.mark.parametrize(
    ("headers", "body", "message"),
    [
        ({}, b" " * (5 << 20), "more than 4 MiB"),
        ({"Content-Encoding": "gzip"}, gzip.compress(bytes(64 << 20)), "is compressed"),
        ({"Content-Encoding": "br"}, b"x", "is compressed"),
    ],
)
@pytest.mark.parametrize("status", [200, 400, 401])
def test_a_huge_answer_is_refused(judge_server, headers, body, message, status):
    judge_server.reply = lambda request: (status, {"Content-Type": "application/json", **headers}, body)
    with pytest.raises(JudgeFailure, match=message):
        ask(Judge(judge_server.url, "m"))


def test_nesting_that_no_parser_follows_is_a_failure(judge_server):
    judge_server.reply = lambda request: (200, {"Content-Type": "application/json"}, b"[" * 100_000)
    with pytest.raises(JudgeFailure, match="model 'm' at"):
        ask(Judge(judge_server.url, "m"))


def test_a_server_that_drips_is_left_in_time(judge_server, monkeypatch):
    monkeypatch.setattr(client, "_SECONDS", 0.3)
    judge_server.reply = lambda request: judge_server.stopped.wait(60) and (200, {}, b"{}")
    with pytest.raises(JudgeFailure, match=r"no answer within 0\.3 s"):
        ask(Judge(judge_server.url, "m"))


def test_a_chat_without_content_is_an_empty_answer(judge_server):
    body = {"choices": [{"message": {"role": "assistant", "content": None}, "finish_reason": "length"}]}
    judge_server.reply = lambda request: (200, {"Content-Type": "application/json"}, json.dumps(body).encode())
    assert ask(Judge(judge_server.url, "m")) == ("", False)
