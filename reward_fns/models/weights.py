"""Weight files: fetched from the Hugging Face hub into its usual cache, hashed and unpacked."""

from __future__ import annotations

import gzip
import hashlib
import os
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from reward_fns.engine.device import scorer_packages
from reward_fns.errors import UsageError

if TYPE_CHECKING:
    from reward_fns.spec import RewardSpec

CONFIG_AND_TOKENIZER = ("config.json", "tokenizer*", "vocab*", "merges.txt*", "special_tokens_map.json*")


@dataclass(frozen=True)
class HubFile:
    """One file of a repository (`owner/name`) on the Hugging Face hub, or of a local folder, which has no revision."""

    repo: str
    name: str
    revision: str = "main"


@dataclass(frozen=True)
class HubFolder:
    """A model's or tokenizer's files in such a repository or folder; only a wildcard pattern may match nothing."""

    repo: str
    revision: str = "main"
    patterns: tuple[str, ...] = CONFIG_AND_TOKENIZER


_used: dict[str, tuple[int, str]] = {}  # size and SHA-256


def loaded() -> dict[str, str]:
    """SHA-256 of every file this process has fetched, under `repo@revision/file`, or its path in a local folder."""
    return {name: sha256 for name, (_, sha256) in _used.items()}


def download(specs: Iterable[RewardSpec]) -> list[str]:
    """Fetch the files that specs' rewards need, print each with its hash, and return (and print) what failed."""
    failures: dict[str, None] = {}
    for component in (part for spec in specs for components in spec.tasks.values() for part in components):
        reward = component.reward
        try:
            for source in reward.needs({**reward.options, **reward.bound, **component.options}) if reward.needs else ():
                before = set(_used)
                _ = fetch(source) if isinstance(source, HubFile) else fetch_folder(source)
                for name in [name for name in _used if name not in before]:
                    print(f"{_used[name][1]}  {_used[name][0]:>12}  {name}", flush=True)
        except UsageError as error:
            failures[f"{reward.name}: {error}"] = None
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return [*failures]


def fetch(file: HubFile) -> Path:
    """Path of a file in the Hugging Face cache (HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE), or a UsageError."""
    return fetch_folder(HubFolder(file.repo, file.revision, (file.name,))) / file.name


def fetch_folder(folder: HubFolder) -> Path:
    """Folder with the files that match the patterns, downloaded if need be; errors as in `fetch`."""
    required = [pattern for pattern in folder.patterns if not set(pattern) & set("*?[")]
    local = Path(folder.repo).expanduser()
    place = local if local.is_dir() else _from_hub(folder, required)
    _demand(place, required)
    for path in sorted({path for pattern in folder.patterns for path in place.glob(pattern) if path.is_file()}):
        name = str(path) if place is local else f"{folder.repo}@{folder.revision}/{path.name}"
        _used[name] = path.stat().st_size, _sha256(path)
    return place


def unpacked(archive: Path, name: str, files: Sequence[str]) -> Path:
    """The folder `$XDG_CACHE_HOME/cxr-grpo/<SHA-256 of the archive>/<name>`, unpacked once from a tar archive.

    (~/.cache where that is not set.) Safe in many processes: each unpacks into an own folder, which is then renamed.
    """
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cxr-grpo"
    target = root / _sha256(archive) / name
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=target.parent) as scratch:
            half = Path(scratch) / name
            with tarfile.open(archive) as tar:
                tar.extractall(half, filter="data")
                while tar.fileobj and tar.fileobj.read(1 << 20):  # the checksum comes last, behind what tarfile reads
                    pass
            _demand(half, files)
            try:
                half.rename(target)
            except OSError:
                if not target.is_dir():  # else another process was faster
                    raise
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, UsageError) as error:
        why = str(error).partition("\n")[0]
        raise UsageError(
            f"archive {archive} is damaged ({why}); delete it, and the file it links to, and fetch it again with "
            "python -m reward_fns download"
        ) from error
    except OSError as error:
        raise UsageError(
            f"cannot unpack {archive} into {target}: {error.strerror or error}; make room there or set XDG_CACHE_HOME"
        ) from error
    return target


def _from_hub(folder: HubFolder, required: Sequence[str]) -> Path:
    with scorer_packages():
        from huggingface_hub import snapshot_download
        from huggingface_hub.constants import HF_HUB_CACHE
    try:
        local = Path(snapshot_download(folder.repo, revision=folder.revision, allow_patterns=[*folder.patterns]))
        _demand(local, required)  # without internet the client is content with whatever of the repository is there
        return local
    except Exception as error:  # what a broken network raises depends on the HTTP library of the hub's client
        why = str(error).strip().partition("\n")[0]
        raise UsageError(
            f"cannot get {', '.join(folder.patterns)} of {folder.repo}, revision {folder.revision}: "
            f"{type(error).__name__}: {why}\nIt must be in the Hugging Face cache {HF_HUB_CACHE}. Without internet, "
            "fill that folder from a machine that has it, such as a login node, with: "
            f"HF_HUB_CACHE={HF_HUB_CACHE} python -m reward_fns download --all (or --spec, --preset, --rewards as for "
            "score); or name a local folder with the files instead of the repository"
        ) from error


def _demand(folder: Path, names: Sequence[str]) -> None:
    for name in names:
        if not (folder / name).is_file():
            raise UsageError(f"{folder} has no {name}")


def _sha256(path: Path) -> str:
    return _hash(path, path.stat().st_size, path.stat().st_mtime_ns)


@cache
def _hash(path: Path, size: int, mtime: int) -> str:  # a file that has changed is read again
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
