"""Small text files by name from a folder or a zip archive, or all of a tar archive; nothing is unpacked to disk."""

import gzip
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, cast

from data_prep.problems import Problems, RefusedData
from reward_fns.errors import UsageError

_LARGEST_ARCHIVE = 2**30  # bytes of all files unpacked; far more than a collection of reports has
Reader = Callable[[str], bytes | None]
"""Content of a file by name, None if it is not there; `Unreadable` if damaged, encrypted or too large."""


class Unreadable(ValueError):
    """A file, in an archive or not, that cannot be used; the message says why."""


@contextmanager
def zip_texts(path: Path, problems: Problems, largest: int) -> Iterator[tuple[list[str], Reader]]:
    """Names, with slashes, and reader of the files in a zip archive; names that leave it or repeat are problems."""
    problems.source(path)
    try:
        archive = zipfile.ZipFile(path)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise RefusedData(f"{path} is not a zip archive, or cut short ({error}); get it again") from error
    entries: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        name = entry.filename.replace("\\", "/")
        if _leaves(name):
            problems.add("unsafe_path", f"{path}: {name}", "leaves the archive's folder; not read")
        elif name in entries:
            problems.add("duplicate_id", f"{path}: {name}", "is in the archive twice; the first is used")
        elif not name.endswith("/"):
            entries[name] = entry

    def read(name: str) -> bytes | None:
        try:
            return _content(archive.open(entries[name]), largest) if name in entries else None
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, OSError) as error:
            raise Unreadable(f"cannot be unpacked from {path}: {error}") from error

    with archive:
        yield list(entries), read


def folder_text(folder: Path, largest: int, name: str) -> bytes | None:
    """A `Reader` of the files in a folder, with two arguments before the name."""
    try:
        return _content(open(folder / name, "rb"), largest)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unreadable(f"{folder / name}: {error.strerror}") from error


def all_files(path: Path, suffix: str, largest: int, problems: Problems) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file with the suffix, in the order of a tar archive or, in a folder, by name."""
    if not path.is_dir():
        problems.source(path)
        yield from _tar_files(path, suffix, largest, problems)
        return
    problems.source(path, f"**/*{suffix}")
    names = sorted(str(file.relative_to(path)) for file in path.rglob(f"*{suffix}"))
    if not names:
        raise UsageError(f"{path} holds no {suffix} file; give the folder, or the archive, that does")
    for name in names:
        try:
            yield name, folder_text(path, largest, name) or b""
        except Unreadable as error:
            problems.add("unreadable_file", name, f"{error}; not used")


def _tar_files(path: Path, suffix: str, largest: int, problems: Problems) -> Iterator[tuple[str, bytes]]:
    unpacked = 0
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            # gzip checks the sum at the end, tarfile's own unpacking does not.
            raw = cast("IO[bytes]", gzip.GzipFile(fileobj=file)) if zipped else file
            archive = tarfile.open(fileobj=raw, mode="r|")  # noqa: SIM115 (reading it whole closes it)
            for member in archive:
                name, unpacked = member.name, unpacked + member.size
                if unpacked > _LARGEST_ARCHIVE:
                    raise RefusedData(f"{path} unpacks to more than {_LARGEST_ARCHIVE:,} bytes; get it again")
                if not name.endswith(suffix) or member.isdir():
                    continue
                if _leaves(name) or not member.isreg():
                    problems.add("unsafe_path", name, "leaves the archive's folder, or is a link; not read")
                elif member.size > largest:
                    problems.add("too_large", name, f"has more than {largest:,} bytes; not read")
                elif content := archive.extractfile(member):
                    yield name, content.read()
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise RefusedData(f"{path} is not a tar archive, or damaged ({error}); get it again") from error
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error


def _leaves(name: str) -> bool:
    return name.startswith("/") or ".." in PurePosixPath(name).parts


def _content(opened: IO[bytes], largest: int) -> bytes:
    with opened as file:
        content = file.read(largest + 1)  # the size that an archive states may be wrong
    if len(content) > largest:
        raise Unreadable(f"more than {largest:,} bytes; no file of this kind is so large")
    return content
