"""Score a JSON-lines file: read its rows, write one result each."""

import contextlib
import errno
import json
import math
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TextIO

from reward_fns.conventions import get_convention
from reward_fns.errors import UsageError
from reward_fns.scoring import Rollout, result_keys, score_batch
from reward_fns.spec import RewardSpec

CHUNK = 512  # rows scored together: enough for batched rewards, few enough that the bar moves
SHOWN_FAILURES = 20


class Row(NamedTuple):
    """A line of the file."""

    line: int
    id: Any
    content: Any  # a Rollout, or what is wrong with the line
    size: int  # in bytes


def score_file(file: Path, out: Path | None, spec: RewardSpec, box_format: str) -> int:
    """Score a JSON-lines file (see `score --help`) and print means and failures to standard error.

    Returns the exit status: 1 if a row could not be scored or a reward of weight 0 failed, else 0.
    """
    from tqdm import tqdm

    get_convention(box_format)
    means: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    failures: list[str] = []
    watchers: Counter[str] = Counter()
    name = "standard output" if out is None else f"--out {out}"
    with reading(file) as source, _opened(out, name) as target:
        size = os.fstat(source.fileno()).st_size
        bar = tqdm(total=size, unit="B", unit_scale=True, desc="score", disable=not sys.stderr.isatty())
        rows = read_rows(source, str(file), box_format)
        while chunk := list(islice(rows, CHUNK)):
            results = iter(score_batch([row.content for row in chunk if not isinstance(row.content, str)], spec))
            for row in chunk:
                result = row.content if isinstance(row.content, str) else next(results)
                record = ({} if row.id is None else {"id": row.id}) | dict.fromkeys(result_keys(spec))
                if isinstance(result, dict):
                    task = row.content.extra_info["task"]
                    numbers = {key: value for key, value in result.items() if not math.isnan(value)}
                    record |= numbers
                    for key, value in numbers.items():
                        means[task][key].append(value)
                    watchers.update(part.reward.name for part in spec.tasks[task] if part.reward.name not in numbers)
                else:
                    record["error"] = str(result)
                    failures.append(f"line {row.line}: {result}")
                with writing_to(name):
                    target.write(json.dumps(record) + "\n")
                bar.update(row.size)
        bar.close()
    for task, keys in sorted(means.items()):
        print(f"{task}: {len(keys['score'])} rows, means:", file=sys.stderr)
        for key, values in keys.items():
            print(f"    {key:20} {math.fsum(values) / len(values):10.4f}", file=sys.stderr)
    for name, count in watchers.items():
        print(f"{count} rows have no {name}: its scorer failed (its weight is 0)", file=sys.stderr)
    if failures:
        more = [f"... and {len(failures) - SHOWN_FAILURES} more"] * (len(failures) > SHOWN_FAILURES)
        head = f"{len(failures)} rows could not be scored:"
        print(head, *failures[:SHOWN_FAILURES], *more, sep="\n    ", file=sys.stderr)
    return 1 if failures or watchers else 0


def read_rows(lines: Iterable[bytes], source: str, box_format: str) -> Iterator[Row]:
    """The rows of a JSON-lines file; blank lines are left out, a bad line gives a row that says what is wrong."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row_id: Any = None
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("need a JSON object")
            row_id = row.get("id")
            for key in ("task", "prediction", "ground_truth"):
                if key not in row:
                    raise ValueError(f"has no {key}")
            info = {key: row.get(key) for key in ("task", "thinking", "width", "height")}
            info["box_format"] = row.get("box_format") or box_format
            info["id"] = f"line {number}" if row_id is None else row_id
            content: Any = Rollout(source, row["prediction"], row["ground_truth"], info)
        except (ValueError, RecursionError) as error:  # not JSON or not UTF-8 is a ValueError
            content = f"not a row to score: {error}"
        yield Row(number, row_id, content, len(line))


def reading(path: Path) -> BinaryIO:
    """Open --file. Raises UsageError."""
    try:
        return path.open("rb")
    except OSError as error:
        raise UsageError(f"cannot read --file {path}: {error.strerror}") from error


@contextlib.contextmanager
def _opened(path: Path | None, name: str) -> Iterator[TextIO]:
    """Standard output, or a file that is there only once it is complete."""
    if path is None:
        yield sys.stdout
        return
    with writing_to(name):
        # A device such as /dev/null is written to, not replaced by a file.
        is_device = path.exists() and not path.is_file()
        part = path if is_device else path.with_name(f".{path.name}.{os.getpid()}.part")
        if not is_device:
            part.touch(mode=0o600)  # an error may quote a report
        file = part.open("w", encoding="utf-8")
    try:
        yield file
        with writing_to(name):
            file.close()
            if not is_device:
                part.replace(path)
    finally:
        with contextlib.suppress(OSError):
            file.close()
        if not is_device:
            with contextlib.suppress(OSError):
                part.unlink()


@contextlib.contextmanager
def writing_to(what: str) -> Iterator[None]:
    """Turn a failure to write into a message that names what could not be written."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        if what == "standard output":
            drop_output()
        hint = "; free some space or choose another disk" if error.errno == errno.ENOSPC else ""
        raise UsageError(f"cannot write {what}: {error.strerror}{hint}") from error


def drop_output() -> None:
    """Keep Python from trying once more to write the rest of standard output at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
