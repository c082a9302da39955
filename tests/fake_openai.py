"""An OpenAI-compatible server on this machine, for tests of whatever asks a language model."""

import contextlib
import http.server
import json
import threading

import pytest


class JudgeServer(http.server.ThreadingHTTPServer):
    """An OpenAI-compatible server whose answers a test decides.

    `answer` takes the prompt and gives the text; `reply` takes the whole request and may give (status, headers, body)
    in its place. What was asked is in `requests`, the headers that came with it in `headers`.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _JudgeHandler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.requests, self.headers, self.stopped = [], [], threading.Event()
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
        self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
        status, headers, body = self.server.reply(request)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def serving():
    """A running server."""
    server = JudgeServer()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server
    finally:
        server.stopped.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def judge_server(monkeypatch):
    """A judge on this machine, with nothing about judges or keys in the environment."""
    judges = [f"{judge}_{part}" for judge in ("JUDGE", "SECOND_JUDGE") for part in ("URL", "MODEL", "KEY")]
    for name in (*judges, "LLM_KEY", "PROXY"):
        monkeypatch.delenv(f"CXR_GRPO_{name}", raising=False)
    with serving() as server:
        yield server
