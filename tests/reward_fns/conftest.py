import asyncio
import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import hypothesis
import pytest

import reward_fns
from reward_fns import failures, registry

# The same examples on every machine, without a time limit that a busy one would miss or a folder of past failures.
hypothesis.settings.register_profile("reward_fns", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("reward_fns")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """Failed samples are tried again at once, and no failure of one test counts in another."""
    failures.forget()
    monkeypatch.setattr(failures.FailureRules, "pause", lambda self, retry: 0.0)
    yield
    failures.forget()


@pytest.fixture
def score():
    """compute_score, called synchronously, with a data source of grounding by default."""

    def call(solution_str, ground_truth, data_source="set/grounding", extra_info=None, **kwargs):
        return asyncio.run(reward_fns.compute_score(data_source, solution_str, ground_truth, extra_info, **kwargs))

    return call


@pytest.fixture
def scratch_registry(monkeypatch):
    """Rewards registered in this test, and specs that name them, are gone after it."""
    registry.names()
    monkeypatch.setattr("reward_fns.spec._resolved", {})
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))


@pytest.fixture
def command(tmp_path):
    """Run `python -m reward_fns` in an empty folder."""

    def run(*arguments, **kwargs):
        env = os.environ | {"PYTHONPATH": str(Path(reward_fns.__file__).parents[1])}
        return subprocess.run(
            [sys.executable, "-m", "reward_fns", *map(str, arguments)],
            cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300, **kwargs,
        )  # fmt: skip

    return run


class JudgeServer(http.server.ThreadingHTTPServer):
    """An OpenAI-compatible server whose answers a test decides.

    `answer` takes the prompt and gives the text; `reply` takes the whole request and may give (status, headers, body)
    in its place. What was asked is in `requests`.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _JudgeHandler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.requests, self.stopped = [], threading.Event()
        self.answer = lambda prompt: ""
        self.finish_reason = "stop"
        self.reply = self.usual_reply

    def usual_reply(self, request):
        chat = "messages" in request
        text = self.answer(request["messages"][0]["content"] if chat else request["prompt"])
        content = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        choice = {"index": 0, "finish_reason": self.finish_reason, "logprobs": None} | content
        body = {"id": "1", "object": "completion", "created": 0, "model": "m", "choices": [choice]}
        return 200, {"Content-Type": "application/json"}, json.dumps(body).encode()

    def handle_error(self, request, client_address):
        """A client that gave up is no news."""


class _JudgeHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append({"path": self.path, "authorization": self.headers["Authorization"], **request})
        status, headers, body = self.server.reply(request)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def judge_server(monkeypatch):
    """A judge on this machine, with nothing about judges or proxies in the environment."""
    for name in ("CXR_GRPO_JUDGE_URL", "CXR_GRPO_JUDGE_MODEL", "CXR_GRPO_JUDGE_KEY", "OPENAI_API_KEY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    server = JudgeServer()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.stopped.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def green_options(judge_server):
    """Options of reward green for a judge whose counts depend on what it is asked."""

    def answer(prompt):
        matched, errors = len(prompt) % 5, prompt.count("a") % 4
        return f"[Clinically Significant Errors]:\n(a) Wrong: {errors}. x\n\n[Matched Findings]:\n{matched}. y"

    judge_server.answer = answer
    return {"base_url": judge_server.url}
