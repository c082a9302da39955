"""Small text files by name, from a folder or straight from a zip archive, without unpacking it."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from data_prep.problems import Problems, RefusedData
from reward_fns.errors import UsageError

if TYPE_CHECKING:
    from typing import Self  # Python 3.11


class Unreadable(ValueError):
    """A file, in an archive or not, that cannot be used; the message says why."""


class ZipTexts:
    """A zip archive of small text files, asked for by name. Nothing is ever written to disk.

    Entries whose name leaves the archive ("../x", "/x") or occurs twice are noted as problems; a file is only ever
    found under the exact name that is asked for. No more than `largest` bytes of a file are unpacked.

    Args:
        path: of the archive.
        problems: gets what is wrong with the archive.
        largest: bytes that a file may have.

    Raises:
        UsageError: if the archive cannot be opened.
        RefusedData: if it is no zip archive or its directory is damaged.
    """

    def __init__(self, path: Path, problems: Problems, largest: int) -> None:
        self.path, self.largest = path, largest
        problems.source(path)
        try:
            self._archive = zipfile.ZipFile(path)
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}") from error
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise RefusedData(f"{path} is no zip archive or cut short ({error}); get it again") from error
        self._entries: dict[str, zipfile.ZipInfo] = {}
        for entry in self._archive.infolist():
            name = entry.filename
            if name.startswith(("/", "\\")) or ".." in PurePosixPath(name).parts:
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
        """The content of one file, or None if there is none of this name.

        Raises:
            Unreadable: if it is damaged, encrypted or larger than allowed.
        """
        entry = self._entries.get(name)
        if entry is None:
            return None
        try:
            with self._archive.open(entry) as file:
                # The size that the archive states may be a lie.
                content = file.read(self.largest + 1)
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, OSError) as error:
            raise Unreadable(f"cannot be unpacked from {self.path}: {error}") from error
        return _within(content, self.largest)


class FolderTexts:
    """The same for a folder of files, e.g. an archive that was unpacked.

    Args:
        folder: where the files lie.
        largest: bytes that a file may have.
    """

    def __init__(self, folder: Path, largest: int) -> None:
        self.folder, self.largest = folder, largest

    def read(self, name: str) -> bytes | None:
        """The content of one file, or None if there is none of this name.

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


def _within(content: bytes, largest: int) -> bytes:
    if len(content) > largest:
        raise Unreadable(f"more than {largest:,} bytes; no file of this kind is so large")
    return content
