"""Samples to parquet files; memory holds one row group per file and a hash of each id and patient."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.problems import RefusedData
from data_prep.sample import KINDS, SPLITS, BadSample, Sample
from data_prep.writer.rows import THINK, render, rl_row, rl_schema, sft_row, sft_schema
from data_prep.writer.staging import staged, write_text
from reward_fns.conventions import get_convention
from reward_fns.errors import UsageError

# The paper's bounds for RL and evaluation, in pixels: 451584 = 672 x 672 (arXiv 2512.10691, released data script).
MIN_PIXELS, MAX_PIXELS = 1024, 451584
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_SFT_SPLITS = ("train", "val")
_MAX_ASPECT = 200  # Qwen's image processor refuses more
_PARQUET = re.compile(rf"(?:sft_)?(?:{'|'.join(SPLITS)})(?:-\d{{5,}}-of-\d{{5,}})?\.parquet")
STORED_IMAGE = re.compile(r"[0-9a-f]{20}\.png")
CARD_MARK = "<!-- Data card written by python -m data_prep; the next run replaces it. -->"
# A row group is held in memory until it is full: by rows where images are paths, by bytes where they are embedded.
_ROWS_PER_GROUP, _BYTES_PER_GROUP = 1024, 32 * 2**20
_BEGINNINGS = {
    "README.md": CARD_MARK.encode(),
    "problems.jsonl": b'{"kind": ',
    "filter.json": b'{\n "method": ',
    "traces.json": b'{\n "model": ',
}


class ShardedFile:
    """The rows of one split: NAME.parquet, or with `shard_rows` NAME-00000-of-00003.parquet and so on."""

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
        names = []
        for place, built in enumerate(self._built):
            shard = f"-{place:05d}-of-{len(self._built):05d}" if self._shard_rows else ""
            names.append(f"{self.name}{shard}.parquet")
            os.replace(built, self._folder / names[-1])
        return names

    def abandon(self) -> None:
        """Close without a footer, which pyarrow would else try to write when the writer is collected."""
        if self._writer:
            self._writer.is_open = False
        if self._file:
            with suppress(OSError):  # what a full disk did not take before, it does not take now either
                self._file.close()


class DatasetWriter:
    """Writes `train`, `val`, `test`, `sft_train` and `sft_val.parquet` (those that get rows), and `images/`.

    A context manager: when the block ends without an exception, these files appear in `out` and those of an earlier
    run are gone; otherwise `out` stays as it was. The options are those of the command line.
    UsageError: an unknown convention, impossible bounds, or a full disk.
    """

    def __init__(
        self,
        out: Path,
        box_format: str = "radvlm",
        *,
        thinking: bool = False,
        suffix: str = THINK,
        format_hint: bool = False,
        embed: bool = False,
        min_pixels: int = MIN_PIXELS,
        max_pixels: int = MAX_PIXELS,
        shard_rows: int | None = None,
    ) -> None:
        if not 0 < min_pixels <= max_pixels:
            raise UsageError(f"need 0 < min_pixels <= max_pixels, got {min_pixels} and {max_pixels}")
        self.out = out.absolute()
        self.convention = get_convention(box_format)
        self.thinking, self.suffix = thinking, suffix
        self.format_hint, self.embed = format_hint, embed
        self.bounds = {"min_pixels": min_pixels, "max_pixels": max_pixels}
        self.shard_rows = shard_rows
        self.counts: Counter[tuple[str, str, str]] = Counter()  # samples by split, task and kind
        self.files: dict[str, list[Path]] = {}  # by split, e.g. "sft_train", after `finish`
        self._files: dict[str, ShardedFile] = {}
        # Hashes, not texts: of a million ids, two have the same one with a probability of 3e-8.
        self._ids: set[int] = set()
        self._split_of: dict[int, int] = {}

    def __enter__(self) -> DatasetWriter:
        if self.out.is_dir():
            earlier_files(self.out)  # refuses a folder with foreign files at once, and not after hours
        self._stack = ExitStack()  # holds the folder of all files until the block ends
        self.folder = self._stack.enter_context(staged(self.out, earlier_files))
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        written = 0
        try:
            with self._stack:
                try:
                    if error is not None:
                        raise error
                    self.finish()
                finally:
                    written = sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())
                    for file in self._files.values():
                        file.abandon()
        except OSError as failure:
            if failure.errno not in _DISK_FULL:
                raise
            free = shutil.disk_usage(self.out).free
            raise UsageError(
                f"no space left on the disk of {self.out}: it filled up after {written / 1e6:.1f} MB; with these "
                f"removed again, {free / 1e6:.1f} MB are free. Make room for more than that, or choose another --out."
            ) from failure

    def add(self, sample: Sample) -> None:
        """Write the RL row of a sample unless it is a conversation, and its SFT row if for training or validation.

        Raises BadSample (then nothing was written), or RefusedData for a repeated id or a patient in two splits.
        """
        if defect := sample.defect():
            raise BadSample(defect)
        if (identity := hash(sample.id)) in self._ids:
            raise RefusedData(f"two samples have the id {sample.id!r}; the second: {sample}")
        split, patient = SPLITS.index(sample.split), hash(sample.patient_id)
        if (before := self._split_of.get(patient, split)) != split:
            raise RefusedData(
                f"patient {sample.patient_id!r} is in two splits, {SPLITS[before]} and, with sample {sample.id!r}, "
                f"{sample.split}; give all images of a patient to one split"
            )
        _check_text(sample)
        frame, images = self._images(sample)
        self._ids.add(identity)
        self._split_of[patient] = split
        self.counts[sample.split, sample.task, sample.kind or KINDS[sample.task][0]] += 1
        name = self.convention.name
        turns = sample.turns or (render(sample, name, frame, format_hint=self.format_hint),)
        if sample.task != "conversation":
            rl, (question, _) = self._open(sample.split, rl_schema(self.embed)), turns[0]
            thinking, suffix = self.thinking, self.suffix
            rl.add(rl_row(sample, question, name, frame, images, index=rl.count, thinking=thinking, suffix=suffix))
        if sample.split in _SFT_SPLITS:
            self._open(f"sft_{sample.split}", sft_schema(self.embed)).add(sft_row(turns, images))

    def finish(self) -> None:
        """Close the parquet files; then `files` is complete, and no sample can be added."""
        if not self.files:
            self.files = {name: [self.out / part for part in file.finish()] for name, file in self._files.items()}

    def add_text(self, name: str, text: str, mode: int = 0o666) -> None:
        """Add a text file, such as the data card."""
        write_text(self.folder / name, text, mode)

    def patients(self) -> dict[str, int]:
        """How many patients each split has."""
        found = Counter(self._split_of.values())
        return {split: found[place] for place, split in enumerate(SPLITS) if found[place]}

    def _images(self, sample: Sample) -> tuple[tuple[int, int], list[dict[str, Any]]]:
        """The frame of the sample's boxes, and the row's value of `images`."""
        if sample.image is None:
            return (0, 0), []
        sides = sample.width, sample.height
        if max(sides) > _MAX_ASPECT * min(sides):
            raise BadSample(f"the image is {sides[0]} x {sides[1]}: Qwen's processor refuses an aspect over 200")
        views = (sample.image,) if sample.lateral is None else (sample.image, sample.lateral)
        images = [{**self._source(view), **self.bounds} for view in views]
        return self.convention.frame(*sides, **self.bounds), images

    def _source(self, image: Path | bytes) -> dict[str, Any]:
        if self.embed:
            if isinstance(image, bytes):
                return {"bytes": image}
            try:
                return {"bytes": image.read_bytes()}
            except OSError as error:
                raise BadSample(f"{image} cannot be read: {error.strerror}") from error
        if isinstance(image, bytes):
            # Named by content: samples of one film share one file, and a file never changes under its name.
            name = f"{hashlib.sha256(image).hexdigest()[:20]}.png"
            path = self.folder / "images" / name
            if not path.exists():
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(image)
            image = self.out / "images" / name
        # Not Path.as_uri(): the reader (qwen_vl_utils) takes what follows "file://" literally, without decoding %20.
        return {"image": f"file://{image.absolute()}"}

    def _open(self, name: str, schema: pa.Schema) -> ShardedFile:
        if name not in self._files:
            self._files[name] = ShardedFile(self.folder, name, schema, self.shard_rows)
        return self._files[name]


def _check_text(sample: Sample) -> None:
    fields = (str(value) for value in vars(sample).values() if isinstance(value, str | Path))
    labels, turns = (box.label for box in sample.boxes), (part for turn in sample.turns for part in turn)
    text = "".join([*fields, *labels, *turns])
    try:
        text.encode()
    except UnicodeEncodeError as error:
        near = text[max(error.start - 20, 0) : error.end + 20]
        raise BadSample(f"a text is not valid Unicode (half of a surrogate pair) at {near!r}") from error


def earlier_files(out: Path) -> list[Path]:
    """The files that earlier runs wrote to a folder; UsageError if a file has the name of one but other content."""
    images = [path for path in (out / "images").glob("*.png") if STORED_IMAGE.fullmatch(path.name)]
    return [path for path in out.iterdir() if path.is_file() and is_ours(path)] + images


def earlier_tables(out: Path) -> list[Path]:
    """`earlier_files` for `filter` and `traces`: not films, which the rows of another folder may show, nor the list of
    problems, which they write by itself.
    """
    return [path for path in earlier_files(out) if path.parent == out and path.name != "problems.jsonl"]


def is_ours(path: Path) -> bool:
    """Whether an earlier run wrote this file, rather than a user; UsageError for another parquet file of our name."""
    if beginning := _BEGINNINGS.get(path.name):
        with path.open("rb") as file:
            return file.read(len(beginning)) == beginning
    if not _PARQUET.fullmatch(path.name):
        return False
    columns: set[str] = set()
    with suppress(OSError, pa.ArrowException):
        columns = set(pq.read_schema(path).names)
    if not any(columns >= set(schema.names) for schema in (rl_schema(), sft_schema())):
        raise UsageError(
            f"{path} was not written by python -m data_prep, or is damaged, and training would read it with the new "
            "files; move it away, or choose another --out"
        )
    return True
