"""Small text files by name from a folder or a zip archive, or all of a tar archive; nothing is unpacked to disk."""

import gzip
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple, cast

from data_prep.problems import Problems, RefusedData
from reward_fns.errors import UsageError

_LARGEST_ARCHIVE = 2**30  # bytes of all files unpacked; far more than a collection of reports has


class Unreadable(ValueError):
    """A file, in an archive or not, that cannot be used; the message says why."""


class ZipTexts(AbstractContextManager["ZipTexts"]):
    """A zip archive of files of at most `largest` bytes, asked for by name; backslashes in names are read as slashes.

    Entries whose name leaves the archive ("../x", "/x") or occurs twice are problems.
    """

    def __init__(self, path: Path, problems: Problems, largest: int) -> None:
        self.path, self.largest = path, largest
        problems.source(path)
        try:
            self._archive = zipfile.ZipFile(path)
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}") from error
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise RefusedData(f"{path} is not a zip archive, or cut short ({error}); get it again") from error
        self._entries: dict[str, zipfile.ZipInfo] = {}
        for entry in self._archive.infolist():
            name = entry.filename.replace("\\", "/")
            if _leaves(name):
                problems.add("unsafe_path", f"{path}: {name}", "leaves the archive's folder; not read")
            elif name in self._entries:
                problems.add("duplicate_id", f"{path}: {name}", "is in the archive twice; the first is used")
            elif not name.endswith("/"):
                self._entries[name] = entry
        self.names = list(self._entries)  # of all files, in the archive's order

    def __exit__(self, *_exception: object) -> None:
        self._archive.close()

    def read(self, name: str) -> bytes | None:
        """The content of one file, None if it is not there; `Unreadable` if damaged, encrypted or too large."""
        entry = self._entries.get(name)
        if entry is None:
            return None
        try:
            with self._archive.open(entry) as file:
                # The size that the archive states may be wrong.
                return _within(file.read(self.largest + 1), self.largest)
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, OSError) as error:
            raise Unreadable(f"cannot be unpacked from {self.path}: {error}") from error


class FolderTexts(NamedTuple):
    """The same for the files of a folder, of at most `largest` bytes each."""

    folder: Path
    largest: int

    def read(self, name: str) -> bytes | None:
        """The content of one file, None if it is not there; `Unreadable` if it cannot be read or is too large."""
        try:
            with open(self.folder / name, "rb") as file:
                return _within(file.read(self.largest + 1), self.largest)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Unreadable(f"{self.folder / name}: {error.strerror}") from error


def all_files(path: Path, suffix: str, largest: int, problems: Problems) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file with the suffix: in a tar archive's order, of a folder by name, sub-folders too.

    The archive may be gzipped. Entries whose name leaves it, links and files of more than `largest` bytes are problems.
    """
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
            yield name, FolderTexts(path, largest).read(name) or b""
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
                name = member.name
                unpacked += member.size
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


def _within(content: bytes, largest: int) -> bytes:
    if len(content) > largest:
        raise Unreadable(f"more than {largest:,} bytes; no file of this kind is so large")
    return content
