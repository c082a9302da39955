"""The data card, README.md in the output folder: a run's inputs, options, files, problems and versions."""

import argparse
import hashlib
import importlib.metadata
import platform
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path

import pyarrow.parquet as pq
from tqdm import tqdm

from data_prep.problems import Problems
from data_prep.registry import DataSet
from data_prep.writer.dataset import CARD_MARK, DatasetWriter, is_ours
from reward_fns.errors import UsageError

_PACKAGES = ("cxr-grpo", "numpy", "pillow", "pyarrow", "pydicom")


def check_place(out: Path) -> None:
    """Raise UsageError for a folder whose README.md someone else wrote, because a card would replace it."""
    if (out / "README.md").exists() and not is_ours(out / "README.md"):
        raise UsageError(f"{out / 'README.md'} is not a data card and would be lost; move it, or choose another --out")


def write_card(
    chosen: DataSet, options: argparse.Namespace, writer: DatasetWriter, problems: Problems, differences: Sequence[str]
) -> None:
    """Write the card, before the writer's block ends; `options` has the arguments themselves as `command`."""
    files = [writer.folder / path.name for name in sorted(writer.files) for path in writer.files[name]]
    rows = [(path.name, pq.read_metadata(path).num_rows, _digest(path)) for path in files]
    lines = [
        CARD_MARK,
        f"# {chosen.name}: {chosen.summary}",
        f"Made on {datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC with",
        f"```\npython -m data_prep {shlex.join(options.command)}\n```",
        "## Samples",
        _table(("split", "task", "asked for", "samples"), ((*key, n) for key, n in sorted(writer.counts.items()))),
        _table(("split", "patients"), writer.patients().items()),
        "No patient is in two splits.",
        "## Files",
        _table(("file", "rows", "SHA-256"), rows),
        "## Inputs",
        "Images are not hashed, only the files that labels and texts were read from.",
        _table(("input", "bytes", "SHA-256"), _inputs(problems)),
        "## Published counts",
        *(differences or ["As published." if chosen.expected and not options.limit else "Not compared."]),
        *([_table(("counted", "number"), sorted(problems.counts.items()))] if problems.counts else []),
        "## Problems and notes",
        _table(("kind", "number"), Counter(problem.kind for problem in problems.found).most_common()),
        _table(("note", "number"), problems.notes.items()),
        "## Options",
        _table(("option", "value"), ((k, v) for k, v in sorted(vars(options).items()) if k not in ("run", "command"))),
        "## Versions",
        _table(("software", "version"), (("python", platform.python_version()), *map(_version, _PACKAGES))),
    ]
    writer.add_text("README.md", "\n\n".join(lines) + "\n")


def _table(header: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    lines = ["| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows]
    return "\n".join(["| " + " | ".join(header) + " |", "|" + "---|" * len(header), *lines]) if lines else "None."


def _inputs(problems: Problems) -> Iterable[tuple[str, int, str]]:
    for path, pattern in tqdm(problems.sources.items(), desc="hashing inputs", unit="input", disable=None):
        if pattern is None:
            yield str(path), path.stat().st_size, _digest(path)
            continue
        # One digest for the folder: of the lines "digest  name" that sha256sum would print for its files.
        found = sorted(file for file in path.glob(pattern) if file.is_file())
        listing = hashlib.sha256()
        for file in found:
            listing.update(f"{_digest(file)}  {file.relative_to(path)}\n".encode())
        size = sum(file.stat().st_size for file in found)
        yield f"{path}/{pattern} ({len(found)} files)", size, listing.hexdigest()


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):  # hashlib.file_digest needs Python 3.11
            digest.update(block)
    return digest.hexdigest()


def _version(package: str) -> tuple[str, str]:
    try:
        return package, importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return package, "not installed"
