"""`python -m reward_fns download` against a hub on this machine."""

import hashlib
import json
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

pytest.importorskip("torch")
import tiny_checkpoints as tiny

COMMIT = "c0ffee" + "0" * 34


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as its client needs to download."""

    def __init__(self, folder, *arguments):
        self.folder = folder
        super().__init__(*arguments)

    def do_HEAD(self):
        self.do_GET(body=False)

    def do_GET(self, body=True):
        if self.path.startswith("/api/models/"):
            repo = "/".join(self.path.split("/")[3:5])
            names = [path.name for path in (self.folder / repo).iterdir()]
            info: object = {"id": repo, "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
            if "/tree/" in self.path:
                info = [{"type": "file", "path": name, "size": 0, "oid": COMMIT} for name in names]
            content = json.dumps(info).encode()
        else:
            repo, _, name = self.path[1:].partition("/resolve/")
            path = self.folder / repo / name.partition("/")[2]
            content = path.read_bytes() if path.is_file() else None
        self.send_response(404 if content is None else 200)
        if content is None:
            self.send_header("X-Error-Code", "EntryNotFound")
        else:
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        if body and content:
            self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with a RadGraph; returns its folder."""
    folder = tmp_path / "hub"
    encoder = tiny.bert_folder(folder / "who" / "bert")
    (folder / "who" / "bert" / "model.safetensors").write_text("not needed")
    (folder / "who" / "scorers").mkdir(parents=True)
    tiny.radgraph_archive(folder / "who" / "scorers", "radgraph-xl", encoder, name="who/bert")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("HF_HUB_CACHE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    yield folder
    server.shutdown()


@pytest.fixture
def spec(tmp_path):
    path = tmp_path / "spec.yaml"
    options = {"repo": "who/scorers", "level": "simple"}
    path.write_text(json.dumps({"report": [{"name": "gleu"}, {"name": "radgraph_f1", "options": options}]}))
    return path


def test_downloads_what_a_spec_needs_and_then_works_offline(command, hub, spec, tmp_path, monkeypatch):
    done = command("download", "--spec", spec)
    assert done.returncode == 0, done.stderr
    rows = {name: (digest, int(size)) for digest, size, name in map(str.split, done.stdout.splitlines())}
    archive = hub / "who/scorers/radgraph-xl.tar.gz"
    assert rows["who/scorers@main/radgraph-xl.tar.gz"] == (
        hashlib.sha256(archive.read_bytes()).hexdigest(),
        archive.stat().st_size,
    )
    assert {name for name in rows if "bert" in name} == {
        f"who/bert@main/{name}" for name in ("config.json", "tokenizer_config.json", "vocab.txt")
    }
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    text = "There is mild pulmonary edema."
    row = {"task": "report", "prediction": text, "ground_truth": {"report": text}}
    (tmp_path / "in.jsonl").write_text(json.dumps(row))
    done = command("score", "--spec", spec, "--file", "in.jsonl")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["radgraph_f1"] == 1.0


def test_what_failed_is_listed(command, hub, spec):
    (hub / "who/scorers/radgraph-xl.tar.gz").unlink()
    done = command("download", "--spec", spec)
    assert done.returncode == 1
    assert "failed: radgraph_f1: cannot get radgraph-xl.tar.gz of who/scorers, revision main" in done.stderr


def test_offline_with_an_empty_cache(command, hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = command("download", "--rewards", "radgraph_f1,gleu")
    assert done.returncode == 1 and done.stdout == ""
    assert f"HF_HUB_CACHE={tmp_path / 'hf' / 'hub'} python -m reward_fns download" in done.stderr
    assert "Traceback" not in done.stderr


def test_rewards_without_weights_need_nothing(command):
    done = command("download", "--rewards", "gleu,box_iou")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_wrong_use(command):
    assert command("download").returncode == 2
    done = command("download", "--rewards", "radgraf_f1")
    assert done.returncode == 2 and "did you mean 'radgraph_f1'" in done.stderr
