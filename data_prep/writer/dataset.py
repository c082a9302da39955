"""Samples to parquet files: rows for RL and for SFT, built aside and moved into place at the end.

Files are built under a hidden folder in the output folder, so a run that fails, is interrupted or is killed leaves no
file that looks whole. Memory holds one row group per file and a hash of each id and patient, however long the rows are.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import platform
import shutil
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from data_prep.problems import RefusedData
from data_prep.sample import KINDS, SPLITS, Sample
from data_prep.writer.rows import rl_row, rl_schema, sft_row, sft_schema
from data_prep.writer.shards import ShardedFile
from reward_fns.conventions import get_convention
from reward_fns.errors import UsageError

if TYPE_CHECKING:
    from typing import Self  # Python 3.11

# The paper's bounds for RL and evaluation, in pixels: 451584 = 672 x 672 (arXiv 2512.10691, released data script).
MIN_PIXELS, MAX_PIXELS = 1024, 451584
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_SFT_SPLITS = ("train", "val")


class DatasetWriter:
    """Writes `train`, `val`, `test`, `sft_train` and `sft_val.parquet` (those that get rows), and `images/`.

    A context manager: files appear in `out` when the block ends without an exception, and not before.

    Attributes:
        counts: samples by split, task and kind.
        files: the parquet files by split, e.g. "sft_train", once they are in place.

    Args:
        out: folder, made if needed. Files of the same name in it are replaced.
        box_format: name of the box convention for prompts and answers.
        thinking: RL prompts ask for a reasoning trace.
        format_hint: describe the answer format in the question.
        embed: store images in the parquet files, instead of paths.
        min_pixels, max_pixels: size bounds that the model's processor keeps to when it resizes an image.
        shard_rows: split each file into shards of so many rows.

    Raises:
        UsageError: for an unknown convention, impossible bounds, or a full disk.
    """

    def __init__(
        self,
        out: Path,
        box_format: str = "radvlm",
        *,
        thinking: bool = False,
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
        self.thinking, self.format_hint, self.embed = thinking, format_hint, embed
        self.bounds = {"min_pixels": min_pixels, "max_pixels": max_pixels}
        self.shard_rows = shard_rows
        self.counts: Counter[tuple[str, str, str]] = Counter()
        self.files: dict[str, list[Path]] = {}
        self._files: dict[str, ShardedFile] = {}
        # Hashes, not texts: of a million ids, two have the same one with a probability of 3e-8.
        self._ids: set[int] = set()
        self._split_of: dict[int, int] = {}

    def __enter__(self) -> Self:
        self.out.mkdir(parents=True, exist_ok=True)
        prefix = f".unfinished-{platform.node()}-"
        remove_killed(self.out, prefix)
        self._staging = Path(tempfile.mkdtemp(prefix=prefix, dir=self.out))
        self._lock = (self._staging / "lock").open("w")
        with suppress(OSError):  # a file system without locks
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._commit()
        except OSError as failure:
            if failure.errno not in _DISK_FULL:
                raise
            error = failure
        finally:
            written = self._discard()
        if isinstance(error, OSError) and error.errno in _DISK_FULL:
            free = shutil.disk_usage(self.out).free
            raise UsageError(
                f"no space left on the disk of {self.out}: it filled up after {written / 1e6:.1f} MB; with these "
                f"removed again, {free / 1e6:.1f} MB are free. Make room for more than that, or choose another --out."
            ) from error

    def _discard(self) -> int:
        """Remove what was not moved into place; returns its size in bytes."""
        written = sum(f.stat().st_size for f in self._staging.rglob("*") if f.is_file())
        for file in self._files.values():
            file.abandon()
        shutil.rmtree(self._staging, ignore_errors=True)
        self._lock.close()
        return written

    def add(self, sample: Sample) -> None:
        """Write the RL row of a sample unless it is a conversation, and its SFT row if for training or validation.

        Raises:
            RefusedData: a sample with this id was written before, or one of this patient to another split.
        """
        if (identity := hash(sample.id)) in self._ids:
            raise RefusedData(f"two samples have the id {sample.id!r}; the second: {sample}")
        self._ids.add(identity)
        split = SPLITS.index(sample.split)
        before = self._split_of.setdefault(hash(sample.patient_id), split)
        if before != split:
            raise RefusedData(
                f"patient {sample.patient_id!r} is in two splits, {SPLITS[before]} and, with sample {sample.id!r}, "
                f"{sample.split}; give all images of a patient to one split"
            )
        self.counts[sample.split, sample.task, sample.kind or KINDS[sample.task][0]] += 1
        frame = 0, 0
        images = []
        if sample.image is not None:
            frame = self.convention.frame(sample.width, sample.height, **self.bounds)
            views = (sample.image,) if sample.lateral is None else (sample.image, sample.lateral)
            images = [{**self._source(view), **self.bounds} for view in views]
        if sample.task != "conversation":
            rl = self._open(sample.split, rl_schema(self.embed))
            hints = {"thinking": self.thinking, "format_hint": self.format_hint}
            rl.add(rl_row(sample, self.convention, frame, images, rl.count, **hints))
        if sample.split in _SFT_SPLITS:
            row = sft_row(sample, self.convention, frame, images, format_hint=self.format_hint)
            self._open(f"sft_{sample.split}", sft_schema(self.embed)).add(row)

    def patients(self) -> dict[str, int]:
        """How many patients each split has."""
        found = Counter(self._split_of.values())
        return {split: found[place] for place, split in enumerate(SPLITS) if found[place]}

    def _source(self, image: Path | bytes) -> dict[str, Any]:
        if self.embed:
            return {"bytes": image if isinstance(image, bytes) else image.read_bytes()}
        if isinstance(image, bytes):
            # Named by content: samples of one film share one file, and a file never changes under its name.
            name = f"{hashlib.sha256(image).hexdigest()[:20]}.png"
            staged = self._staging / "images" / name
            if not staged.exists():
                staged.parent.mkdir(exist_ok=True)
                staged.write_bytes(image)
            image = self.out / "images" / name
        # Not Path.as_uri(): the reader (qwen_vl_utils) takes what follows "file://" literally, without decoding %20.
        return {"image": f"file://{image.absolute()}"}

    def _open(self, name: str, schema: pa.Schema) -> ShardedFile:
        if name not in self._files:
            self._files[name] = ShardedFile(self._staging, name, schema, self.shard_rows)
        return self._files[name]

    def _commit(self) -> None:
        for file in self._files.values():
            file.close()
        # Images first: no parquet file is ever in place before what it points to.
        if (self._staging / "images").exists():
            (self.out / "images").mkdir(exist_ok=True)
            for image in (self._staging / "images").iterdir():
                os.replace(image, self.out / "images" / image.name)
        for name, file in self._files.items():
            self.files[name] = file.move(self.out)


def remove_killed(out: Path, prefix: str) -> None:
    """Remove what runs of this machine left that were killed outright: their lock is free."""
    for lock in out.glob(f"{prefix}*/lock"):
        with suppress(OSError), lock.open() as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent)
