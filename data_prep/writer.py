"""Samples to parquet: rows for verl's RLHFDataset and for its MultiTurnSFTDataset, from the same samples.

Files are built under a hidden folder in the output folder and moved into place at the end, so a run that fails, is
interrupted or is killed leaves no file that looks whole. Memory does not grow with the number of rows.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.problems import RefusedData
from data_prep.prompts import render
from data_prep.sample import Sample
from reward_fns.conventions import get_convention
from reward_fns.errors import UsageError

if TYPE_CHECKING:
    from typing import Self  # Python 3.11

# The paper's bounds for RL and evaluation, in pixels: 451584 = 672 x 672 (arXiv 2512.10691, released data script).
MIN_PIXELS, MAX_PIXELS = 1024, 451584
_ROW_GROUP = 128
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_SFT_SPLITS = ("train", "val")
_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_EXTRA_INFO = pa.struct(
    [
        ("id", pa.string()),
        ("patient_id", pa.string()),
        ("split", pa.string()),
        ("index", pa.int64()),
        ("thinking", pa.bool_()),
        ("task", pa.string()),
        ("box_format", pa.string()),
        ("width", pa.int64()),
        ("height", pa.int64()),
    ]
)


def _images_type(embed: bool) -> pa.DataType:
    # verl takes a row for embedded as soon as the key `bytes` exists, whatever its value: one struct for both
    # kinds, with nulls, cannot be read.
    source = ("bytes", pa.binary()) if embed else ("image", pa.string())
    return pa.list_(pa.struct([source, ("min_pixels", pa.int64()), ("max_pixels", pa.int64())]))


def rl_schema(embed: bool = False) -> pa.Schema:
    """Schema of train, val and test.parquet (verl 0.9.1, RLHFDataset); `embed`: images as bytes, not as paths."""
    return pa.schema(
        [
            ("data_source", pa.string()),
            ("prompt", _MESSAGES),
            ("images", _images_type(embed)),
            ("ability", pa.string()),
            ("reward_model", pa.struct([("style", pa.string()), ("ground_truth", pa.string())])),
            ("extra_info", _EXTRA_INFO),
        ]
    )


def sft_schema(embed: bool = False) -> pa.Schema:
    """Schema of sft_train and sft_val.parquet (verl 0.9.1, MultiTurnSFTDataset)."""
    return pa.schema([("messages", _MESSAGES), ("images", _images_type(embed))])


class _ParquetFile:
    """One file that is written a row group at a time."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path = path
        self.count = 0
        self._rows: list[dict[str, Any]] = []
        self._file = path.open("wb")
        self._writer = pq.ParquetWriter(self._file, schema)

    def add(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        self.count += 1
        if len(self._rows) == _ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._writer.schema))
            self._rows = []

    def close(self) -> None:
        with self._file:
            self._flush()
            self._writer.close()

    def abandon(self) -> None:
        """Close without a footer, which pyarrow would else try to write when the writer is collected."""
        self._writer.is_open = False
        # What a full disk did not take before, it does not take now either.
        with suppress(OSError):
            self._file.close()


class DatasetWriter:
    """Writes `train`, `val`, `test`, `sft_train` and `sft_val.parquet` (those that get rows), and `images/`.

    A context manager: files appear in `out` when the block ends without an exception, and not before. SFT rows always
    ask without the thinking suffix, because gold answers have no reasoning trace.

    Args:
        out: folder, made if needed. Files of the same name in it are replaced.
        box_format: name of the box convention for prompts and answers.
        thinking: RL prompts ask for a reasoning trace.
        format_hint: describe the answer format in the question.
        embed: store images in the parquet files, instead of paths.
        min_pixels, max_pixels: size bounds that the model's processor keeps to when it resizes an image.

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
    ) -> None:
        if not 0 < min_pixels <= max_pixels:
            raise UsageError(f"need 0 < min_pixels <= max_pixels, got {min_pixels} and {max_pixels}")
        self.out = out.absolute()
        self.convention = get_convention(box_format)
        self.thinking, self.format_hint, self.embed = thinking, format_hint, embed
        self.bounds = {"min_pixels": min_pixels, "max_pixels": max_pixels}
        self.counts: Counter[tuple[str, str]] = Counter()
        self._files: dict[str, _ParquetFile] = {}
        self._ids: set[str] = set()

    def __enter__(self) -> Self:
        self.out.mkdir(parents=True, exist_ok=True)
        self._staging = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=self.out))
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
        return written

    def add(self, sample: Sample) -> None:
        """Write the RL row of a sample, and its SFT row if it is for training or validation.

        Raises:
            RefusedData: if a sample with this id was written before.
        """
        if sample.id in self._ids:
            raise RefusedData(f"two samples have the id {sample.id!r}; the second: {sample}")
        self._ids.add(sample.id)
        self.counts[sample.split, sample.task] += 1
        frame = self.convention.frame(sample.width, sample.height, **self.bounds)
        images = [{**self._source(sample), **self.bounds}]
        rl = self._open(sample.split, rl_schema(self.embed))
        rl.add(self._rl_row(sample, frame, images, index=rl.count))
        if sample.split in _SFT_SPLITS:
            question, answer = render(sample, self.convention.name, frame, format_hint=self.format_hint)
            messages = [_user(question), {"role": "assistant", "content": answer}]
            self._open(f"sft_{sample.split}", sft_schema(self.embed)).add({"messages": messages, "images": images})

    def _rl_row(
        self, sample: Sample, frame: tuple[int, int], images: list[dict[str, Any]], index: int
    ) -> dict[str, Any]:
        question, _ = render(sample, self.convention.name, frame, thinking=self.thinking, format_hint=self.format_hint)
        # verl's dumps keep the ground truth but not extra_info: these tell whose row it is and how to read the answer.
        truth: dict[str, Any] = {"id": sample.id, "patient_id": sample.patient_id, "task": sample.task}
        truth["box_format"] = self.convention.name
        if sample.task == "report":
            truth |= {"report": sample.report}
        else:
            truth |= {
                "boxes": [[box.x1, box.y1, box.x2, box.y2] for box in sample.boxes],
                "labels": [box.label for box in sample.boxes],
                "frame": list(frame),
            }
        return {
            "data_source": f"{sample.dataset}/{sample.task}",
            "prompt": [_user(question)],
            "images": images,
            "ability": "radiology",
            "reward_model": {"style": "rule", "ground_truth": json.dumps(truth, ensure_ascii=False)},
            "extra_info": {
                "id": sample.id,
                "patient_id": sample.patient_id,
                "split": sample.split,
                "index": index,
                "thinking": self.thinking,
                "task": sample.task,
                "box_format": self.convention.name,
                "width": sample.width,
                "height": sample.height,
            },
        }

    def _source(self, sample: Sample) -> dict[str, Any]:
        image = sample.image
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

    def _open(self, name: str, schema: pa.Schema) -> _ParquetFile:
        if name not in self._files:
            self._files[name] = _ParquetFile(self._staging / f"{name}.parquet", schema)
        return self._files[name]

    def _commit(self) -> None:
        for file in self._files.values():
            file.close()
        # Images first: no parquet file is ever in place before what it points to.
        if (self._staging / "images").exists():
            (self.out / "images").mkdir(exist_ok=True)
            for image in (self._staging / "images").iterdir():
                os.replace(image, self.out / "images" / image.name)
        for file in self._files.values():
            os.replace(file.path, self.out / file.path.name)


def _user(question: str) -> dict[str, str]:
    return {"role": "user", "content": f"<image>\n{question}"}
