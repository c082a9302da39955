"""CSV files of published data sets, plain or gzipped, row by row with the columns that are needed."""

import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import IO, Any, AnyStr

from data_prep.problems import Problems, RefusedData
from reward_fns.errors import UsageError

_LONGEST = 1 << 24  # characters or bytes of a line, and so of a field, which Python limits to 131,072: too few


def find(folder: Path, name: str, option: str) -> Path:
    """`folder/name`, or `folder/name.gz` where it was not unpacked; `option` is what the error tells to correct."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise UsageError(f"{option}: neither {folder / name} nor {name}.gz is there; download it or correct the path")


def header(path: Path) -> list[str]:
    """The names of the columns; errors as `rows`."""
    with _open(path) as reader:
        return next(reader, [])


def rows(path: Path, columns: Sequence[str], problems: Problems) -> Iterator[tuple[str, ...]]:
    """The named columns, two or more, of every row; UsageError without file or column, RefusedData for damage."""
    problems.source(path)
    with _open(path) as reader:
        names: list[str] = next(reader, [])
        if missing := [name for name in columns if name not in names]:
            raise UsageError(f"{path} has no column {' or '.join(missing)}; it has {', '.join(names) or 'nothing'}")
        take = itemgetter(*(names.index(name) for name in columns))
        for row in reader:
            if len(row) == len(names):
                yield take(row)
            elif row:
                wrong = f"{len(row)} fields where the header has {len(names)}; damaged or cut short, get it again"
                raise RefusedData(f"{path}, line {reader.line_num}: {wrong}")


def raw(path: Path, problems: Problems) -> Iterator[list[str]]:
    """The fields of every row, the header's first, where the header does not match the rows; errors as `rows`."""
    problems.source(path)
    with _open(path) as reader:
        yield from reader


def lines(file: IO[AnyStr], path: Path) -> Iterator[AnyStr]:
    """The lines of a file; RefusedData for one so long that it would only fill the memory, as from a zip bomb."""
    number = 0
    while line := file.readline(_LONGEST + 1):
        number += 1
        if len(line) > _LONGEST:
            wrong = f"has more than {_LONGEST:,} characters, as no line of a table or of JSON lines does"
            raise RefusedData(f"{path}, line {number}: {wrong}; damaged, or another kind of file: get it again")
        yield line


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    csv.field_size_limit(_LONGEST)
    try:
        with path.open("rb") as raw:
            unpacked = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw
            # "utf-8-sig": spreadsheet programs put a mark in front of the first name.
            yield csv.reader(lines(io.TextIOWrapper(unpacked, encoding="utf-8-sig", newline=""), path))
    except gzip.BadGzipFile as error:
        raise RefusedData(f"{path} is not a gzip file: {error}; get it again") from error
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        byte = f"byte 0x{error.object[error.start]:02x}"
        raise RefusedData(f"{path}: not in UTF-8 ({byte}); another program saved it anew, get the original") from error
    except (csv.Error, EOFError, zlib.error) as error:
        raise RefusedData(f"{path} is damaged: {error}; get it again") from error
