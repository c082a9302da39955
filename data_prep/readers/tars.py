"""Small files from a tar archive, read in one pass without unpacking it, or from the folder it was unpacked to."""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, cast

from data_prep.problems import Problems, RefusedData
from reward_fns.errors import UsageError

_LARGEST_ARCHIVE = 2**30  # bytes unpacked; of a collection of report files that is far too much


def files(path: Path, suffix: str, largest: int, problems: Problems) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file with the suffix: in the archive's order, of a folder by name, sub-folders too.

    Nothing is written to disk. Entries whose name leaves the archive, links and files above the bound are problems.

    Args:
        path: a tar archive, gzipped or not, or a folder.
        suffix: e.g. ".xml".
        largest: bytes that a file may have.
        problems: is also told what was read.

    Raises:
        UsageError: the archive cannot be opened, or a folder has no such file.
        RefusedData: the archive is damaged, or far larger than any of its kind.
    """
    if path.is_dir():
        problems.source(path, f"**/*{suffix}")
        found = sorted(path.rglob(f"*{suffix}"))
        if not found:
            raise UsageError(f"{path} holds no {suffix} file; give the folder, or the archive, that has them")
        for file in found:
            name = str(file.relative_to(path))
            try:
                with file.open("rb") as opened:
                    content = opened.read(largest + 1)
            except OSError as error:
                problems.add("unreadable_file", name, f"{error.strerror}; not used")
                continue
            yield from _bounded(name, content, largest, problems)
        return
    problems.source(path)
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            bounded = cast("IO[bytes]", _Bounded(gzip.GzipFile(fileobj=raw) if zipped else raw, path))
            with tarfile.open(fileobj=bounded, mode="r|") as archive:
                yield from _members(archive, suffix, largest, problems)
    except OSError as error:
        if isinstance(error, gzip.BadGzipFile):
            raise _damaged(path, error) from error
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> RefusedData:
    return RefusedData(f"{path} is no tar archive, or damaged ({error}); get it again")


def _members(archive: tarfile.TarFile, suffix: str, largest: int, problems: Problems) -> Iterator[tuple[str, bytes]]:
    for member in archive:
        name = member.name
        if not name.endswith(suffix) or member.isdir():
            continue
        if name.startswith("/") or ".." in PurePosixPath(name).parts:
            problems.add("unsafe_path", name, "leaves the archive's folder; not read")
        elif not member.isreg():
            problems.add("unsafe_path", name, "is a link or a device, no file; not read")
        elif opened := archive.extractfile(member):
            yield from _bounded(name, opened.read(largest + 1), largest, problems)


def _bounded(name: str, content: bytes, largest: int, problems: Problems) -> Iterator[tuple[str, bytes]]:
    if len(content) > largest:
        problems.add("too_large", name, f"has more than {largest:,} bytes, as no file of its kind does; not read")
    else:
        yield name, content


class _Bounded(io.RawIOBase):
    """A stream that refuses to go on for ever: a few kilobytes can unpack to any size."""

    def __init__(self, stream: IO[bytes] | gzip.GzipFile, path: Path) -> None:
        self._stream, self._path, self._left = stream, path, _LARGEST_ARCHIVE

    def read(self, size: int = -1) -> bytes:
        content = self._stream.read(size)
        self._left -= len(content)
        if self._left < 0:
            raise RefusedData(
                f"{self._path} unpacks to more than {_LARGEST_ARCHIVE:,} bytes, as no archive of reports does; "
                f"it is damaged or not what its name says, get it again"
            )
        return content
