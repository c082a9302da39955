"""What ended a run, found in its log and on its disks."""

import errno
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from recipe.cxr_grpo.records import heartbeat

SHOWN_LINES = 25  # the last ones of a failed run's log
_LITTLE_DISK = 100e6  # bytes free, with which a failed run is said to have filled the disk
_DISK_FULL = re.compile(
    rf"{os.strerror(errno.ENOSPC)}|{os.strerror(errno.EDQUOT)}|\[Errno ({errno.ENOSPC}|{errno.EDQUOT})\]"
    "|file write failed|iostream error"  # PyTorch's and its zip writer's only words for it
)
_MARKS = {heartbeat.STOPPED: "The run was stopped: ", "ScorerUnavailable: ": "The last scorer failure: "}
_RESUMED = re.compile(r"(?:Resuming from|Found latest checkpoint:) (.*global_step_\d+)")
_ACTOR_GONE = re.compile(r"ray\.exceptions\.Actor(?:Died|Unavailable)Error: ")
_CLASS_NAME = re.compile(r"\s+class_name: (\w+)")
_ERROR_COLUMNS = 2000  # of a line, in which an error is looked for: some lines hold whole answers
_ERROR = re.compile(r"\b([\w.]{0,100}(?:Error|Exception|Unavailable)\b.*)")


class RunFailed(Exception):
    """A run started and did not finish; the message shows the end of its log, and the cause if that is known.

    ``cause`` is one line that tells one failure from another.
    """

    def __init__(self, message: str, cause: str = "") -> None:
        super().__init__(message)
        self.cause = cause or message.partition("\n")[0]

    def with_note(self, note: str) -> "RunFailed":
        """The same failure with one more line."""
        return RunFailed(f"{self}\n{note}", self.cause)


def explain(problem: str, log: Path, start: int, folders: Sequence[Path]) -> RunFailed:
    """The failure of a run that ended with ``problem``, from its log after the byte ``start``, where the run began.

    ``folders`` are those that it wrote to.
    """
    with log.open(errors="replace") as file:
        file.seek(start)
        lines = file.read().splitlines()
    tail = "".join(f"  | {line}\n" for line in lines[-SHOWN_LINES:])
    causes = list(_causes(lines, folders))
    said = (line for line in lines if "Warning: " not in line)  # verl warns of each engine that it can't import
    errors = [match[1] for line in said if (match := _ERROR.search(line, 0, _ERROR_COLUMNS))]
    cause = causes[0] if causes else ": ".join([problem, *errors[-1:]])
    return RunFailed(f"{problem}; the end of {log}:\n{tail}" + "\n".join(causes), cause)


def _causes(lines: Sequence[str], folders: Sequence[Path]) -> Iterator[str]:
    """The causes that a log shows, in whatever form Ray wrapped them."""
    disks = {folder.stat().st_dev: folder for folder in reversed(folders) if folder.exists()}
    space = {folder: shutil.disk_usage(folder).free for folder in disks.values()}
    if any(_DISK_FULL.search(line) for line in lines) or any(free < _LITTLE_DISK for free in space.values()):
        free = ", ".join(f"{folder} has {free / 1e9:.2f} GB free" for folder, free in space.items())
        yield f"No space left on a disk, or in a quota: {free}. Make room, or choose another with --out and TMPDIR."
    if failed := _resuming(lines):
        yield failed
    for mark, words in _MARKS.items():
        said = [text for line in lines if (text := line.partition(mark)[2].strip())]
        if said:
            yield words + said[-1]
            return  # what stopped the run says more than the last failure before it
    if dead := _dead_actor(lines):
        yield f"A process of the run died: {dead}. It was killed, ran out of memory, or lost Ray on its node."


def _dead_actor(lines: Sequence[str]) -> str | None:
    """Which of verl's actors died, if that is Ray's last word in the driver, whose lines have no ``(Name pid=…)``."""
    last = next((number for number in reversed(range(len(lines))) if lines[number].startswith("ray.exceptions.")), None)
    if last is None or not _ACTOR_GONE.match(lines[last]):
        return None
    names = (match[1] for line in lines[last + 1 : last + 6] if (match := _CLASS_NAME.match(line)))
    return next(names, "TaskRunnerV1")  # the only actor that the driver itself waits for


def _resuming(lines: Sequence[str]) -> str | None:
    """Which checkpoint verl could not load, if that ended the run, and why."""
    resumed = [(number, match[1]) for number, line in enumerate(lines) if (match := _RESUMED.search(line))]
    if not resumed:
        return None
    number, checkpoint = resumed[-1]
    after = lines[number + 1 :]
    errors = [match[1] for line in after if (match := _ERROR.search(line, 0, _ERROR_COLUMNS))]
    if not errors or not any(re.search(r"in _?load_checkpoint\b", line) for line in after):
        return None
    question = "Is it of this model, and of this number of GPUs?"
    return f"The checkpoint {checkpoint} could not be loaded: {errors[-1]}. {question}"
