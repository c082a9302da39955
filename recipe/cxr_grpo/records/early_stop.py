"""Saving and stopping a run before it is finished: the request for it, and the trainer's note that it has done so.

Both are files beside the checkpoints, because the trainer may run on another machine than ``launch``.
"""

from pathlib import Path

JOB_END = "SLURM_JOB_END_TIME"  # environment variable: the unix time at which Slurm ends the job
REQUEST, _NOTE = "save_and_stop", "stopped_early.txt"


def note(folder: Path, what: str) -> None:
    """Note ``what`` the run did before it stopped."""
    (folder / _NOTE).write_text(what)


def take_note(folder: Path) -> str | None:
    """What the note says, None if there is none; it is removed."""
    path = folder / _NOTE
    what = path.read_text() if path.exists() else None
    path.unlink(missing_ok=True)
    return what
