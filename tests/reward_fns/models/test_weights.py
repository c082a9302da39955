import hashlib
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import reward_fns
from reward_fns.errors import UsageError
from reward_fns.models.weights import HubFile, HubFolder, fetch, fetch_folder, loaded, unpacked

FILES = {"config.json": b"{}", "weights.th": bytes(range(256)) * 4000}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty Hugging Face cache, and no network."""
    pytest.importorskip("huggingface_hub")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def in_cache(hub, repo, files):
    """Lay files out as the hub's client does."""
    place = hub / f"models--{repo.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("c0ffee")
    snapshot = place / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True)
    for name, content in files.items():
        (snapshot / name).write_bytes(content)
    return snapshot


@pytest.fixture
def archive(tmp_path):
    return pack(tmp_path / "model.tar.gz", FILES)


def pack(path, files):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def test_a_file_in_a_local_folder_is_hashed_anew_when_it_changes(tmp_path):
    path = tmp_path / "weights.th"
    for content in (b"one", b"other"):
        path.write_bytes(content)
        assert fetch(HubFile(str(tmp_path), "weights.th", "v1")) == path
        assert loaded()[str(path)] == hashlib.sha256(content).hexdigest()
    with pytest.raises(UsageError, match=rf"{tmp_path} has no other\.th"):
        fetch(HubFile(str(tmp_path), "other.th"))


def test_a_local_folder_counts_what_matches(tmp_path):
    for name in ("config.json", "vocab.txt", "notes.md"):
        (tmp_path / name).write_text(name)
    before = set(loaded())
    assert fetch_folder(HubFolder(str(tmp_path))) == tmp_path
    assert {Path(name).name for name in set(loaded()) - before} == {"config.json", "vocab.txt"}
    with pytest.raises(UsageError, match=r"has no model\.safetensors"):
        fetch_folder(HubFolder(str(tmp_path), patterns=("config.json", "model.safetensors")))


def test_what_is_in_the_hub_cache_needs_no_network(hub):
    snapshot = in_cache(hub, "who/tiny", {"config.json": b"{}", "weights.th": b"w"})
    assert fetch(HubFile("who/tiny", "weights.th")) == snapshot / "weights.th"
    assert fetch_folder(HubFolder("who/tiny")) == snapshot
    assert loaded()["who/tiny@main/weights.th"] == hashlib.sha256(b"w").hexdigest()
    assert loaded()["who/tiny@main/config.json"] == hashlib.sha256(b"{}").hexdigest()


def test_without_the_file_and_the_network_the_message_helps(hub):
    in_cache(hub, "who/part", {"vocab.txt": b"a"})
    for source, function, name in [
        (HubFile("who/tiny", "weights.th", "v2"), fetch, "weights.th"),
        (HubFolder("who/none", "v2"), fetch_folder, "config.json"),
        (HubFolder("who/part"), fetch_folder, "config.json"),
    ]:
        with pytest.raises(UsageError) as caught:
            function(source)
        message = str(caught.value)
        for part in (name, source.repo, source.revision, f"HF_HUB_CACHE={hub} python -m reward_fns download"):
            assert part in message


def test_an_archive_is_unpacked_once(archive, cache):
    place = unpacked(archive, "model", list(FILES))
    assert {path.name: path.read_bytes() for path in place.iterdir()} == FILES
    assert place == cache / "cxr-grpo" / hashlib.sha256(archive.read_bytes()).hexdigest() / "model"
    (place / "config.json").write_text("seen")
    assert (unpacked(archive, "model", list(FILES)) / "config.json").read_text() == "seen"
    assert os.listdir(place.parent) == ["model"]  # nothing temporary is left


def test_who_comes_second_takes_what_the_first_unpacked(archive, cache, monkeypatch):
    def beaten(half, place):
        place.mkdir()
        (place / "config.json").write_text("the winner's")
        raise OSError(39, "Directory not empty")

    monkeypatch.setattr(Path, "rename", beaten)
    assert (unpacked(archive, "model", list(FILES)) / "config.json").read_text() == "the winner's"


def test_many_processes_at_once(archive, cache, tmp_path):
    code = """
import sys, time
from pathlib import Path
from reward_fns.models.weights import unpacked
print("ready", flush=True)
while not Path(sys.argv[2]).exists():
    time.sleep(0.001)
place = unpacked(Path(sys.argv[1]), "model", ["config.json", "weights.th"])
print(place, (place / "weights.th").stat().st_size, (place / "config.json").stat().st_size)
"""
    start = tmp_path / "start"
    env = os.environ | {"PYTHONPATH": str(Path(reward_fns.__file__).parents[1])}
    command = [sys.executable, "-c", code, str(archive), str(start)]
    workers = [subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE) for _ in range(8)]
    assert [worker.stdout.readline() for worker in workers] == ["ready\n"] * len(workers)
    start.touch()
    outputs = {worker.communicate(timeout=300)[0].strip() for worker in workers}
    place = unpacked(archive, "model", list(FILES))
    assert outputs == {f"{place} {len(FILES['weights.th'])} 2"}
    assert os.listdir(place.parent) == ["model"]


def damaged(kind, archive):
    content = archive.read_bytes()
    if kind == "truncated":
        archive.write_bytes(content[: len(content) // 2])
    elif kind == "not an archive":
        archive.write_bytes(b"<html>404</html>")
    elif kind == "bit rot":
        archive.write_bytes(content[:-40] + bytes(40))
    elif kind == "incomplete":
        pack(archive, {"config.json": b"{}"})
    else:
        pack(archive, {"../outside": b"x", **FILES})


@pytest.mark.parametrize("kind", ["truncated", "not an archive", "bit rot", "incomplete", "reaches outside"])
def test_a_damaged_archive_leaves_nothing(archive, cache, kind):
    damaged(kind, archive)
    with pytest.raises(UsageError, match=rf"archive {archive} is damaged \(.*fetch it again"):
        unpacked(archive, "model", list(FILES))
    assert [path for path in cache.rglob("*") if path.name in (*FILES, "model", "outside")] == []


def test_no_room_for_the_archive(archive, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UsageError, match=r"cannot unpack .*: Not a directory; make room there or set XDG_CACHE_HOME"):
        unpacked(archive, "model", list(FILES))
