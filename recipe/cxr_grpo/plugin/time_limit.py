"""When a run has to be saved and stopped, so that its job's time limit does not cut off a step that is then lost."""

import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from recipe.cxr_grpo.records import early_stop

MARGIN = 60.0  # seconds for the end of a run: its last metrics, and its processes
TRIAL, SAVE, VALIDATION = "trial of the rewards", "checkpoint", "validation"  # all other phases are of a step


class TimeLimit:
    """Whether there is time for another step of a run; ``end``, that of its job, and ``clock`` are in unix seconds."""

    def __init__(self, folder: Path, end: float, clock: Callable[[], float] = time.time) -> None:
        self.folder, self.end, self.clock = folder, end, clock
        self.part, self.since = TRIAL, clock()
        self.spent: defaultdict[str, float] = defaultdict(float)  # seconds of each part since the end of the last step
        self.longest: dict[str, float] = {}

    def enter(self, phase: str) -> None:
        """Note that the trainer has come to a phase."""
        now = self.clock()
        self.spent[self.part] += now - self.since
        self.part, self.since = phase if phase in (TRIAL, SAVE, VALIDATION) else "step", now

    def reached(self, validations: int) -> str | None:
        """At a step's end: why the run has to be saved and stopped now, None if it goes on.

        That is on request, or if the time left is not enough for a step, its checkpoint, ``validations``, each as long
        as the longest so far, and :data:`MARGIN`. A checkpoint or validation not yet seen counts as long as a step.
        """
        self.enter("step")
        for part, seconds in self.spent.items():
            self.longest[part] = max(seconds, self.longest.get(part, 0.0))
        self.spent.clear()
        if (self.folder / early_stop.REQUEST).exists():
            return "on request (SIGUSR1)"
        step = self.longest["step"]
        need = step + self.longest.get(SAVE, step) + validations * self.longest.get(VALIDATION, step) + MARGIN
        return "before the time limit" if self.end - self.clock() < need else None
