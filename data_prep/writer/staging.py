"""Files that appear in a folder all at once, and parquet files rewritten a batch at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.problems import Problems, RefusedData
from data_prep.writer.dataset import remove_killed

_BATCH = 128


@contextlib.contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A hidden folder whose files move into `out` if the block ends without an exception, and else are gone."""
    out.mkdir(parents=True, exist_ok=True)
    prefix = f".unfinished-{platform.node()}-"
    remove_killed(out, prefix)
    place = Path(tempfile.mkdtemp(prefix=prefix, dir=out))
    lock = place / "lock"
    try:
        with lock.open("w") as held:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield place
            for file in sorted(place.iterdir()):
                if file != lock:
                    os.replace(file, out / file.name)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def read_schema(path: Path) -> pa.Schema:
    """The columns of a parquet file.

    Raises:
        RefusedData: it can't be read.
    """
    try:
        return pq.read_schema(path)
    except (OSError, pa.ArrowException) as error:
        raise RefusedData(f"{path}: cannot be read ({error}); try python -m data_prep validate {path}") from error


def parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file, a batch in memory at a time.

    Raises:
        RefusedData: it can't be read.
    """
    try:
        for batch in pq.ParquetFile(path).iter_batches(_BATCH):
            yield from batch.to_pylist()
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise RefusedData(f"{path}: cannot be read ({error}); try python -m data_prep validate {path}") from error


def rewrite(path: Path, target: Path, change: Callable[[int, dict[str, Any]], dict[str, Any] | None]) -> int:
    """Write a changed copy of a parquet file; returns how many rows it has.

    Args:
        path: the file to read.
        target: the file to write, in the same schema.
        change: gets the number of a row and the row; gives the new one, or None to leave it out.
    """
    schema = pq.read_schema(path)
    count = 0
    with pq.ParquetWriter(target, schema) as writer:
        rows: list[dict[str, Any]] = []
        for number, row in enumerate(parquet_rows(path)):
            new = change(number, row)
            rows += [] if new is None else [new]
            if len(rows) == _BATCH:
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
                count, rows = count + len(rows), []
        if rows:
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    return count + len(rows)


def write_problems(out: Path, problems: Problems) -> None:
    """List the problems in `problems.jsonl`; an older list goes, so that the file tells of the last run."""
    path = out / "problems.jsonl"
    if not problems.found:
        path.unlink(missing_ok=True)
        return
    with staged(out) as place:
        (place / path.name).write_text(problems.json_lines(), encoding="utf-8")
