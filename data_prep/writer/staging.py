"""Files that appear in a folder all at once, and parquet files rewritten a batch at a time."""

import contextlib
import fcntl
import itertools
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.problems import Problems, RefusedData
from reward_fns.errors import UsageError

_BATCH = 128
_PREFIX = f".unfinished-{platform.node()}-"


@contextlib.contextmanager
def staged(
    out: Path, earlier: Callable[[Path], Iterable[Path]] = lambda out: (), *, private: bool = False
) -> Iterator[Path]:
    """A hidden folder whose files move into `out` if the block ends without an exception, and are removed otherwise.

    The `earlier` files of `out` are removed when the new ones move in; `private` ones only their owner can read.
    UsageError: another run is writing to `out`.
    """
    out.mkdir(parents=True, exist_ok=True)
    with _locked(out):
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=out))
        try:
            yield folder
            for path in folder.rglob("*") if private else ():
                path.chmod(0o600)
            _replace_files(out, folder, {path.relative_to(out) for path in earlier(out)})
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Holds the lock of a folder, and removes what killed runs of this machine left in it."""
    handle = os.open(out, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UsageError(f"another run is writing to {out}; wait for it, or choose another --out") from error
            for killed in out.glob(f"{_PREFIX}*"):
                shutil.rmtree(killed, ignore_errors=True)
        if others := sorted(set(out.glob(".unfinished-*")) - set(out.glob(f"{_PREFIX}*"))):
            advice = f"wait for it and choose another --out, or remove {others[0]}"
            raise UsageError(f"a run on another machine is writing to {out}, or was killed there: {advice}")
        yield
    finally:
        os.close(handle)


def _replace_files(out: Path, folder: Path, earlier: set[Path]) -> None:
    """Move new files from `folder` to `out` and earlier ones out of it; whatever fails, `out` is as it was before."""
    new = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    moves: list[tuple[Path, Path]] = []

    def move(source: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(source, target)
        moves.append((source, target))

    nested = {name for name in new if len(name.parts) > 1 and (out / name).exists()}
    try:
        # No parquet file is ever in place without what it points to: it goes first and comes last.
        for name in sorted(earlier - nested, key=lambda name: (len(name.parts), name)):
            move(out / name, folder / "earlier" / name)
        for name in nested:  # images are named by their content, so these are the same ones
            os.replace(folder / name, out / name)
        for name in sorted(new - nested, key=lambda name: (-len(name.parts), name)):
            move(folder / name, out / name)
    except BaseException:
        for source, target in reversed(moves):
            os.replace(target, source)
        raise
    for emptied in {(out / name).parent for name in earlier} - {out}:
        with contextlib.suppress(OSError):  # not empty
            emptied.rmdir()


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise RefusedData(f"{path}: cannot be read ({error}); try python -m data_prep validate {path}") from error


def read_schema(path: Path) -> pa.Schema:
    """The columns of a parquet file; RefusedData if it can't be read."""
    with _readable(path):
        return pq.read_schema(path)


def parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file, a batch in memory at a time; RefusedData if it can't be read."""
    with _readable(path):
        for batch in pq.ParquetFile(path).iter_batches(_BATCH):
            yield from batch.to_pylist()


def rewrite(path: Path, target: Path, change: Callable[[int, dict[str, Any]], dict[str, Any] | None]) -> int:
    """Write a changed copy of a parquet file; returns how many rows it has. A `change` to None leaves a row out."""
    schema = pq.read_schema(path)
    new = (change(number, row) for number, row in enumerate(parquet_rows(path)))
    rows = (row for row in new if row is not None)
    count = 0
    with pq.ParquetWriter(target, schema) as writer:
        while batch := list(itertools.islice(rows, _BATCH)):
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))
            count += len(batch)
    return count


def write_problems(out: Path, problems: Problems) -> None:
    """List the problems in `problems.jsonl`; without any, the list of an earlier run is removed."""
    path = out / "problems.jsonl"
    if not problems.found:
        path.unlink(missing_ok=True)
        return
    with staged(out, private=True) as folder:
        write_text(folder / path.name, problems.json_lines())


def write_text(path: Path, text: str, mode: int = 0o666) -> None:
    """Write a text in UTF-8; a lone surrogate, which UTF-8 does not have, is written as its escape.

    A new file has these permissions, but for what the umask takes away.
    """
    path.touch(mode)
    path.write_text(text, encoding="utf-8", errors="backslashreplace")
