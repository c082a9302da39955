"""Checkpoints that a run can trust: sealed when they are finished, checked before one is resumed from.

verl 0.9.1 writes ``global_step_N/actor`` (or, in supervised training, straight into ``global_step_N``), then the state
of the data loader beside it, then N into ``latest_checkpointed_iteration.txt``. It resumes from what that file names,
sound or not, and without the data loader's state starts the data again.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import sys
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from reward_fns.errors import UsageError

MANIFEST = "manifest.json"
TRACKER = "latest_checkpointed_iteration.txt"
_BLOCK, _BLOCKS = 2**20, 64
_LARGE = 10e9  # bytes of a checkpoint whose check takes so long that it is announced
_SHARD = re.compile(r"(\w+)_world_size_(\d+)_rank_(\d+)\.pt")


def seal(checkpoint: Path) -> None:
    """Write ``manifest.json`` into a finished ``global_step_N``, which says that it is finished.

    The manifest has size and SHA-256 of every file; of a file over 64 MiB, those of 64 evenly spaced blocks of 1 MiB.
    Not for a checkpoint that is still being written, as with Megatron's ``async_save``.
    """
    paths = _files(checkpoint)
    with ThreadPoolExecutor() as pool:
        digests = pool.map(_digest, paths)
        files = {
            str(path.relative_to(checkpoint)): {"size": path.stat().st_size, "sha256": digest}
            for path, digest in zip(paths, digests, strict=True)
        }
    _write(checkpoint / MANIFEST, json.dumps({"files": files}, indent=1) + "\n")


def defect(checkpoint: Path) -> str | None:
    """Why a ``global_step_N`` can't be trusted, None if it can: what is missing, differs from its manifest or is NaN.

    Tensors that only a process group can load, such as FSDP1's and Megatron's, are not searched for NaN.
    """
    if not (checkpoint / MANIFEST).is_file():
        return f"no {MANIFEST}: it was not finished"
    return _changed(checkpoint) or _without_data(checkpoint) or _not_finite(checkpoint)


def unsealed_defect(checkpoint: Path) -> str | None:
    """The same without a manifest, from the layout and checksums of verl's own files: every rank, every archive."""
    return _incomplete(checkpoint) or _without_data(checkpoint) or _damaged(checkpoint) or _not_finite(checkpoint)


def newest(folder: Path) -> int:
    """The step that verl's ``latest_checkpointed_iteration.txt`` in ``folder`` names, 0 without the file."""
    tracker = folder / TRACKER
    return int(tracker.read_text()) if tracker.exists() else 0


def choose(folder: Path, keep: int | None = None) -> int:
    """The step of the newest sound checkpoint in ``folder``, which verl will resume from; 0 for the beginning.

    Newer ones are moved aside as ``global_step_N.damaged``, verl's ``latest_checkpointed_iteration.txt`` is put right,
    and only the newest ``keep`` of those stay that earlier attempts at the run sealed, or that supervised training
    saved; each of these is said on standard error. UsageError if there are checkpoints and none is sound: a run never
    starts again by itself, unless verl had not finished a single one.
    """
    found = [(int(path.name.removeprefix("global_step_")), path) for path in folder.glob("global_step_*")
             if re.fullmatch(r"global_step_\d+", path.name) and path.is_dir()]  # fmt: skip
    checkpoints = dict(sorted(found, reverse=True))
    defects: dict[int, str] = {}
    for step, checkpoint in checkpoints.items():
        reason = _usable(checkpoint)
        if reason is None:
            break
        defects[step] = reason
    else:
        step = 0
        if (folder / TRACKER).exists() or any((path / MANIFEST).exists() for path in checkpoints.values()):
            raise UsageError(_nothing_to_resume(folder, defects))
    for bad, reason in defects.items():
        _set_aside(checkpoints[bad], reason)
    if step:
        _put_right(folder / TRACKER, step)
        _prune([path for number, path in checkpoints.items() if number <= step], keep)
    elif defects:
        _say(f"{folder}: no checkpoint was ever finished, so the run starts from its first step")
    return step


def check_path(checkpoint: Path) -> None:
    """Raise UsageError for a checkpoint that ``trainer.resume_from_path`` names and that is not sound."""
    named_so = re.fullmatch(r"global_step_\d+", checkpoint.name) and checkpoint.is_dir()
    if reason := _usable(checkpoint) if named_so else "it is no folder global_step_N":
        raise UsageError(f"trainer.resume_from_path: {checkpoint}: {reason}. Name another checkpoint.")


def _usable(checkpoint: Path) -> str | None:
    if (size := _size(checkpoint)) > _LARGE:
        _say(f"{checkpoint} is checked, {size / 1e9:.0f} GB")
    if (checkpoint / MANIFEST).exists():
        return defect(checkpoint)
    reason = unsealed_defect(checkpoint)
    if reason is None:
        why = "it is of supervised training or an older version, or the run ended just then"
        _say(f"{checkpoint} has no {MANIFEST} ({why}), but all its files are there and load")
    return reason


def _nothing_to_resume(folder: Path, defects: dict[int, str]) -> str:
    listed = "".join(f"\n  global_step_{step}: {reason}" for step, reason in defects.items())
    return (
        f"{folder}: no checkpoint here can be resumed from{listed or f', although {TRACKER} names one'}\n"
        "Put a sound copy in place. To start again from the first step, choose another --out, or move this folder away."
    )


def _set_aside(checkpoint: Path, reason: str) -> None:
    names = (f"{checkpoint.name}.damaged{'.' * bool(number)}{number or ''}" for number in range(10_000))
    target = next(path for path in map(checkpoint.with_name, names) if not path.exists())
    checkpoint.rename(target)
    size = _size(target) / 1e9
    _say(f"{checkpoint} is not used: {reason}. It is now {target.name} ({size:.2f} GB), which nothing reads")


def _put_right(tracker: Path, step: int) -> None:
    said = tracker.read_text(errors="replace").strip() if tracker.exists() else "nothing"
    if said != str(step):
        _write(tracker, str(step))
        _say(f"{tracker} said {said!r}, now {step}")


def _prune(checkpoints: list[Path], keep: int | None) -> None:
    """Newest first, remove those after the ``keep``-th whole one, which verl has forgotten.

    Those of GRPO without a manifest stay: they are of an older version, or were put there. None of supervised training
    has one; its shards are in ``global_step_N`` itself.
    """
    if not keep or keep < 0:
        return
    whole = 0
    for checkpoint in checkpoints:
        sealed, supervised = (checkpoint / MANIFEST).exists(), any(checkpoint.glob("*_world_size_*_rank_*.pt"))
        if not sealed and not supervised:
            continue
        if whole >= keep:
            shutil.rmtree(checkpoint)
            key = "max_ckpt_to_keep" if supervised else "max_actor_ckpt_to_keep"
            _say(f"{checkpoint} is removed: trainer.{key}={keep}")
        elif (_changed(checkpoint) if sealed else _incomplete(checkpoint) or _without_data(checkpoint)) is None:
            whole += 1


def _changed(checkpoint: Path) -> str | None:
    try:
        files = json.loads((checkpoint / MANIFEST).read_text())["files"]
    except (ValueError, KeyError, OSError) as error:
        return f"{MANIFEST} can't be read: {error!r}"
    paths = {checkpoint / name: entry for name, entry in files.items()}
    for path, entry in paths.items():
        if not path.is_file():
            return f"{path.relative_to(checkpoint)} is missing"
        if (size := path.stat().st_size) != entry["size"]:
            return f"{path.relative_to(checkpoint)} has {size} bytes instead of {entry['size']}"
    with ThreadPoolExecutor() as pool:
        for (path, entry), digest in zip(paths.items(), pool.map(_digest, paths), strict=True):
            if digest != entry["sha256"]:
                return f"{path.relative_to(checkpoint)} has changed since it was written"
    return None


def _without_data(checkpoint: Path) -> str | None:
    if any(checkpoint.glob("data*.pt")):
        return None
    return "data.pt is missing, without which verl would start the data again"


def _incomplete(checkpoint: Path) -> str | None:
    ranks: dict[tuple[Path, str, int], set[int]] = {}
    for path in _files(checkpoint):
        if path.suffix in {".pt", ".safetensors", ".json"} and path.stat().st_size == 0:
            return f"{path.relative_to(checkpoint)} is empty"
        if match := _SHARD.fullmatch(path.name):
            ranks.setdefault((path.parent, match[1], int(match[2])), set()).add(int(match[3]))
    sharded = any(kind == "model" for _, kind, _ in ranks)
    if not sharded and not any(checkpoint.rglob("dist_ckpt/.metadata")):  # of FSDP, of Megatron
        return "it has no shards of the model"
    for (parent, kind, world_size), present in ranks.items():
        if missing := set(range(world_size)) - present:
            name = f"{kind}_world_size_{world_size}_rank_{min(missing)}.pt"
            return f"{(parent / name).relative_to(checkpoint)} is missing"
    return None


def _damaged(checkpoint: Path) -> str | None:
    paths = sorted(checkpoint.rglob("*.pt"))
    with ThreadPoolExecutor() as pool:
        for path, intact in zip(paths, pool.map(_intact, paths), strict=True):
            if not intact:
                return f"{path.relative_to(checkpoint)} is damaged: its checksums are wrong"
    return None


def _intact(path: Path) -> bool:
    """Whether the checksums in an archive of torch.save are right."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except Exception:  # whatever damage makes the reader raise
        return False


def _not_finite(checkpoint: Path) -> str | None:
    shards = [path for path in checkpoint.rglob("*.pt") if _SHARD.fullmatch(path.name)]
    paths = sorted([*shards, *checkpoint.rglob("*.safetensors")])
    with ThreadPoolExecutor() as pool:
        for path, problem in zip(paths, pool.map(_problem_of_tensors, paths), strict=True):
            if problem:
                return f"{path.relative_to(checkpoint)} {problem}"
    return None


def _problem_of_tensors(path: Path) -> str | None:
    import torch

    try:
        for name, tensor in _tensors(path):
            if not tensor.is_floating_point() or not tensor.numel():
                continue
            wide = tensor.float() if tensor.element_size() == 1 else tensor  # there is no aminmax of float8
            if not all(torch.isfinite(bound) for bound in torch.aminmax(wide)):  # needs no memory, NaN goes through
                return f"has NaN or infinity in {name}"
    except Exception as error:  # whatever a damaged file makes the readers raise
        # An archive with the right checksums is what was written: only a type in it can't be loaded here.
        if path.suffix != ".pt" or not _intact(path):
            return f"can't be loaded: {' '.join(str(error).split())[:200]}"
    return None


def _tensors(path: Path) -> Iterator[tuple[str, Any]]:
    """The named tensors of a file, which is mapped into memory and not read until it is looked at."""
    import torch
    import torch.distributed.tensor  # what shards are made of

    if path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no dict
                yield name, file.get_tensor(name)
        return
    logging.getLogger("torch.distributed.device_mesh").setLevel(logging.ERROR)  # warns that no process group is here
    yield from _leaves("", torch.load(path, map_location="cpu", weights_only=True, mmap=True))


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    import torch

    if isinstance(value, torch.Tensor):
        yield name, value.to_local() if hasattr(value, "to_local") else value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _leaves(f"{name}.{key}".lstrip("."), part)
    elif isinstance(value, list | tuple):
        for number, part in enumerate(value):
            yield from _leaves(f"{name}.{number}".lstrip("."), part)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in _files(folder))


def _digest(path: Path) -> str:
    found, size = hashlib.sha256(), path.stat().st_size
    whole = size <= _BLOCK * _BLOCKS
    starts = range(0, size, _BLOCK) if whole else [(size - _BLOCK) * i // (_BLOCKS - 1) for i in range(_BLOCKS)]
    with path.open("rb") as file:
        for start in starts:
            file.seek(start)
            found.update(file.read(_BLOCK))
    return found.hexdigest()


def _write(path: Path, text: str) -> None:
    """Replace a file so that a crash, of the machine too, leaves the old text or the new one."""
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    with contextlib.suppress(OSError):  # some network file systems have no fsync of a folder
        os.fsync(folder)
    os.close(folder)


def _say(text: str) -> None:
    print(f"checkpoint: {text}", file=sys.stderr, flush=True)
