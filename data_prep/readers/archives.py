"""Small text files by name from a folder or a zip archive, or all of a tar archive; nothing is unpacked to disk."""

from __future__ import annotations

import gzip
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, cast

from data_prep.problems import Problems, RefusedData
from reward_fns.errors import UsageError

if TYPE_CHECKING:
    from typing import Self  # Python 3.11

_LARGEST_ARCHIVE = 2**30  # bytes of all files unpacked; far more than a collection of reports has


class Unreadable(ValueError):
    """A file, in an archive or not, that cannot be used; the message says why."""


class ZipTexts:
    """A zip archive of files of at most `largest` bytes, asked for by name; backslashes in names are read as slashes.

    Entries whose name leaves the archive ("../x", "/x") or occurs twice are problems.

    Raises:
        UsageError: if the archive cannot be opened.
        RefusedData: if it is not a zip archive or its directory is damaged.
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._archive.close()

    @property
    def names(self) -> list[str]:
        """Of all files, in the archive's order."""
        return list(self._entries)

    def read(self, name: str) -> bytes | None:
        """The content of one file, or None if the archive does not have it.

        Raises:
            Unreadable: if it is damaged, encrypted or larger than allowed.
        """
        entry = self._entries.get(name)
        if entry is None:
            return None
        try:
            with self._archive.open(entry) as file:
                # The size that the archive states may be wrong.
                content = file.read(self.largest + 1)
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, OSError) as error:
            raise Unreadable(f"cannot be unpacked from {self.path}: {error}") from error
        return _within(content, self.largest)


class FolderTexts:
    """The same for the files of a folder, of at most `largest` bytes each."""

    def __init__(self, folder: Path, largest: int) -> None:
        self.folder, self.largest = folder, largest

    def read(self, name: str) -> bytes | None:
        """The content of one file, or None if the folder does not have it.

        Raises:
            Unreadable: if it cannot be read or is larger than allowed.
        """
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

    Raises:
        UsageError: the archive cannot be opened, or a folder has no such file.
        RefusedData: the archive is damaged, or unpacks to far more than reports do.
    """
    if not path.is_dir():
        problems.source(path)
        yield from _tar_files(path, suffix, largest, problems)
        return
    problems.source(path, f"**/*{suffix}")
    names = sorted(str(file.relative_to(path)) for file in path.rglob(f"*{suffix}"))
    if not names:
        raise UsageError(f"{path} holds no {suffix} file; give the folder, or the archive, that does")
    texts = FolderTexts(path, largest)
    for name in names:
        try:
            yield name, texts.read(name) or b""
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
