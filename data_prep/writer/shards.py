"""Parquet files that are written a row group at a time, in one file or in shards of a given number of rows."""

import os
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

# A row group is held in memory until it is full: by rows where images are paths, by bytes where they are embedded.
_ROWS_PER_GROUP = 1024
_BYTES_PER_GROUP = 32 * 2**20


class ShardedFile:
    """The rows of one split: NAME.parquet, or with `shard_rows` NAME-00000-of-00003.parquet and so on.

    The number of shards is in the names, so that a missing shard shows.
    """

    def __init__(self, folder: Path, name: str, schema: pa.Schema, shard_rows: int | None = None) -> None:
        self.name = name
        self._folder, self._schema, self._shard_rows = folder, schema, shard_rows
        self._rows: list[dict[str, Any]] = []
        self.count = self._bytes = self._in_shard = 0
        self._built: list[Path] = []
        self._file: IO[bytes] | None = None
        self._writer: pq.ParquetWriter | None = None

    def add(self, row: dict[str, Any]) -> None:
        """Append one row."""
        if self._in_shard == self._shard_rows:
            self.close()
        self._rows.append(row)
        self._bytes += sum(len(image.get("bytes", b"")) for image in row["images"])
        self.count += 1
        self._in_shard += 1
        if len(self._rows) == _ROWS_PER_GROUP or self._bytes >= _BYTES_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        if not self._rows:
            return
        if self._writer is None:
            path = self._folder / f"{self.name}-{len(self._built)}"
            self._built.append(path)
            self._file = path.open("wb")
            self._writer = pq.ParquetWriter(self._file, self._schema)
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows, self._bytes = [], 0

    def close(self) -> None:
        """Finish the shard that is being written; the next row begins another."""
        self._flush()
        if self._writer and self._file:
            with self._file:
                self._writer.close()
        self._writer = self._file = None
        self._in_shard = 0

    def finish(self) -> list[str]:
        """Close the last shard, and rename all shards; returns the names."""
        self.close()
        total = len(self._built)
        shards = [f"{self.name}-{place:05d}-of-{total:05d}.parquet" for place in range(total)]
        names = shards if self._shard_rows else [f"{self.name}.parquet"]
        for built, name in zip(self._built, names, strict=True):
            os.replace(built, self._folder / name)
        return names

    def abandon(self) -> None:
        """Close without a footer, which pyarrow would else try to write when the writer is collected."""
        if self._writer:
            self._writer.is_open = False
        if self._file:
            # What a full disk did not take before, it does not take now either.
            with suppress(OSError):
                self._file.close()
