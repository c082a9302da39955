"""Rewards that are computed elsewhere: requests, answers and what may go wrong. Ray itself is in test_serving.py."""

import asyncio
import contextlib
import http.server
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

pytest.importorskip("torch")
from reward_fns.engine import remote
from reward_fns.engine.serving import Scorers
from reward_fns.errors import ScorerUnavailable, UsageError
from reward_fns.registry import get
from reward_fns.scoring import Rollout, score_batch
from reward_fns.settings import EngineOptions
from reward_fns.spec import resolve

TEXTS = ["The heart is enlarged.", "No pleural effusion.", "Small left effusion. " * 9, "None.", "The heart is normal."]
SAMPLES = [Rollout("x/report", text, {"report": TEXTS[i - 1]}, {"id": f"s{i}"}) for i, text in enumerate(TEXTS)]


@pytest.fixture
def rewards(text_models):
    """A spec's rewards, two of which are neural."""
    models = {"repo": str(text_models.scorers), "base": str(text_models.bert)}
    bert = str(text_models.root / "distilroberta-base")
    options = models | {"encoder": str(text_models.bert), "bert": bert}
    return [{"name": "radcliq", "options": options}, {"name": "chexbert_f1", "options": models}, {"name": "gleu"}]


class Server(http.server.ThreadingHTTPServer):
    """HTTP around a replica, or around what a test puts into its place: from a request to (status, body)."""

    daemon_threads = True

    def __init__(self, replica):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests = []
        self.answer = lambda request: (200, json.dumps(asyncio.run(replica.score(request))).encode())

    def handle_error(self, request, client_address):
        """A client that gave up is no news."""


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        assert self.path == "/score"
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(request)
        status, body = self.server.answer(request)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    found = Server(Scorers(vars(EngineOptions(where="ray"))))
    threading.Thread(target=found.serve_forever, args=(0.02,), daemon=True).start()
    yield found
    found.shutdown()
    found.server_close()


@pytest.fixture
def spec(rewards, server):
    def make(**failures):
        engine = {"where": "http", "address": f"http://127.0.0.1:{server.server_port}"}
        return resolve({"report": rewards, "engine": engine, "failures": {"retries": 1, "timeout": 60} | failures})

    return make


def test_over_http_every_reward_equals_the_inline_one(spec, rewards, server):
    far, near = score_batch(SAMPLES, spec()), score_batch(SAMPLES, resolve({"report": rewards}))
    for a, b in zip(far, near, strict=True):
        assert a == pytest.approx(b, abs=1e-6)
    assert {request["reward"] for request in server.requests} == {"radcliq", "chexbert_f1"}  # gleu needs no model


def test_a_failed_request_is_asked_again_alone(spec, server):
    whole, usual = score_batch(SAMPLES, spec()), server.answer

    def answer(request):
        return (503, b"busy") if len(request["predictions"]) > 1 else usual(request)

    server.answer = answer
    assert score_batch(SAMPLES, spec()) == [pytest.approx(result, abs=1e-6) for result in whole]


@pytest.mark.parametrize(
    ("status", "body", "cause"),
    [
        (500, b"oh", "answered 500"),
        (200, b"<html>", "answered with invalid JSON"),
        (200, b"[1]", "answered with"),
        (200, b'{"values": [0.5, 0.5, 0.5, 0.5]}', "answered 1 samples with"),
        (200, b'{"values": [null]}', "returned nan"),
        (200, b'{"values": ["0.1x"]}', "which is not a number"),
        (200, b'{"error": "CUDA error"}', "CUDA error"),
        (200, b"[" * 100_000, "answered with invalid JSON"),
        (200, b" " * (5 << 20), "answered with more than 4 MiB"),
        (307, b"", "answered 307"),
    ],
)
def test_answers_that_are_none_are_failures_of_the_scorer(spec, server, status, body, cause):
    server.answer = lambda request: (status, body)
    results = score_batch(SAMPLES[:1], spec())
    assert isinstance(results[0], ScorerUnavailable) and cause in results[0].cause


def test_a_slow_server_fails_in_time_and_a_dead_one_at_once(spec, server, rewards):
    release = threading.Event()
    server.answer = lambda request: (release.wait(30), (200, b"{}"))[1]
    (slow,) = score_batch(SAMPLES[:1], spec(timeout=0.05, retries=0))
    release.set()
    assert isinstance(slow, ScorerUnavailable) and "time limit" in slow.cause
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        engine = {"where": "http", "address": f"http://127.0.0.1:{free.getsockname()[1]}"}
        (dead,) = score_batch(SAMPLES[:1], resolve({"report": rewards, "engine": engine}))
    assert isinstance(dead, ScorerUnavailable) and "cannot reach the scorers at" in dead.cause


@pytest.mark.parametrize("head", [b"HTTP/1.0 200 OK\r\n\r\n", b"HTTP/1.0 200 OK\r\nContent-Length: 99999\r\n\r\n", b""])
def test_a_server_that_drips_is_left_in_time(head):
    left = threading.Event()

    def drip(connection):
        with connection, contextlib.suppress(OSError):
            connection.recv(1 << 16)
            connection.sendall(head)
            while not left.wait(0.02):
                connection.sendall(b"H")

    with socket.create_server(("127.0.0.1", 0)) as place:
        threading.Thread(target=lambda: drip(place.accept()[0]), daemon=True).start()
        engine = EngineOptions(where="http", address=f"http://127.0.0.1:{place.getsockname()[1]}")
        started = time.monotonic()
        with pytest.raises(TimeoutError, match=r"time limit of 0\.5 s"):
            remote.ask(get("radgraph_f1"), {}, ["a"], ["b"], engine, 0.5)
        assert time.monotonic() - started < 20  # the server would go on for ever
        left.set()


def test_wrong_use_is_named_by_the_server(spec, rewards, server):
    rewards[0]["options"]["repo"] = "/no/such/folder"
    with pytest.raises(UsageError, match=r"the deployment refuses: cannot get|the deployment refuses: .*no such"):
        score_batch(SAMPLES, spec())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reward": "gleu"}, "a deployment does not compute gleu"),
        ({"reward": "radgraph_f2"}, "did you mean 'radgraph_f1'"),
        ({"reward": 3}, "reward of a request must be a text, got 3"),
        ({"options": {"lvel": 1}}, "did you mean 'level'"),
        ({"predictions": ["a", "b"]}, "one reference for each prediction"),
        ({"references": "text"}, "references of a request: input should be a valid list, got 'text'"),
        ({"references": [1]}, "must be lists of texts"),
        ({"timeout": 0}, "timeout of a request"),
        ({"timeout": "1"}, "timeout of a request"),
        ({"rewrd": 1}, "unknown key of a request 'rewrd'"),
    ],
)
def test_odd_requests_are_refused(change, message):
    request = {"reward": "radgraph_f1", "options": {}, "predictions": ["a"], "references": ["b"], "timeout": 5.0}
    answer = asyncio.run(Scorers(vars(EngineOptions(where="ray"))).score(request | change))
    assert message in answer["usage"]


def test_a_reward_that_hangs_in_a_replica_is_given_up_in_time(monkeypatch):
    release = threading.Event()
    monkeypatch.setattr("reward_fns.rewards.radgraph_f1.annotate", lambda texts, **options: release.wait(30))
    request = {"reward": "radgraph_f1", "options": {}, "predictions": ["edema is seen"], "references": ["no edema"]}
    answer = asyncio.run(Scorers(vars(EngineOptions(where="ray"))).score(request | {"timeout": 0.05}))
    release.set()
    assert "no answer within the time limit" in answer["error"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/score", b'{"reward": 1}', 200),
        ("POST", "/scorers/score/", b"{}", 200),
        ("POST", "/score", b"[]", 200),
        ("POST", "/score", b"{", 400),
        ("GET", "/score", b"", 404),
        ("POST", "/", b"{}", 404),
        ("POST", "/score", b"[" * 100_000, 400),
        ("POST", "/score", None, 413),
    ],
)
def test_http_of_a_replica(method, path, body, status):
    requests = pytest.importorskip("starlette.requests")

    parts = iter([bytes(1 << 20)] * 70 if body is None else [body])

    async def receive():  # in chunks, without a length
        return {"type": "http.request", "body": (part := next(parts, b"")), "more_body": bool(part)}

    scope = {"type": "http", "method": method, "path": path, "headers": [(b"transfer-encoding", b"chunked")]}
    replica = Scorers(vars(EngineOptions(where="ray")))
    response = asyncio.run(replica(requests.Request(scope, receive)))
    assert response.status_code == status and "usage" in json.loads(response.body)


def test_a_replica_on_a_broken_gpu_is_unwell(monkeypatch):
    replica = Scorers(vars(EngineOptions(where="ray")))
    replica.check_health()
    monkeypatch.setattr("reward_fns.engine.serving.trouble", lambda: "CUDA error: device-side assert")
    with pytest.raises(RuntimeError, match="device-side assert"):
        replica.check_health()


def test_a_users_own_reward_stays_at_home(tmp_path, scratch_registry, server):
    (tmp_path / "mine.py").write_text(
        "from reward_fns import reward\n"
        "@reward('at_home', task='report', range=(0, 1), batched=True, needs=lambda options: ())\n"
        "def at_home(predictions, references):\n    return [1.0] * len(predictions)\n"
    )
    engine = {"where": "http", "address": f"http://127.0.0.1:{server.server_port}"}
    spec = resolve({"report": [{"name": "at_home", "path": str(tmp_path / "mine.py")}], "engine": engine})
    assert [result["at_home"] for result in score_batch(SAMPLES, spec)] == [1.0] * 5
    assert server.requests == []


def test_many_first_calls_share_one_way_to_the_deployment(monkeypatch):
    ray = pytest.importorskip("ray")
    serve = pytest.importorskip("ray.serve", exc_type=ImportError)
    together = threading.Barrier(20)

    class Application:
        """As Ray's handle, which makes a router, slowly, whenever its method is looked up before it has one."""

        routers = 0

        @property
        def score(self):
            Application.routers += 1
            return self

        def remote(self, request, session):
            return self

        def result(self, timeout_s):
            return {"values": [0.5]}

    where = SimpleNamespace(gcs_address="127.0.0.1:0", get_job_id=lambda: "a test's")
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: where)
    monkeypatch.setattr(serve, "get_app_handle", lambda name: Application())
    monkeypatch.setattr(remote, "_handles", {})

    def ask(i):
        together.wait()
        return remote.ask(get("chexbert_f1"), {}, [f"{i}"], ["none"], EngineOptions(where="ray"), 1.0)

    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(ask, range(20))) == [[0.5]] * 20
    assert Application.routers == 1
