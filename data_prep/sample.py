"""The common record: every data set yields these, and everything behind works on these only."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reward_fns.boxes import Box

SPLITS = ("train", "val", "test")
KINDS = {
    "report": ("findings", "impression", "report"),
    "grounding": ("finding", "anatomy", "abnormality", "phrase", "detection"),
    "conversation": ("conversation", "classification"),
}
"""Task (which rewards apply; none for "conversation") -> what its questions can be after; the first is the default."""
TASKS = tuple(KINDS)


class BadSample(ValueError):
    """A sample that the writer cannot turn into a row; the message says why, but not which."""


@dataclass(frozen=True)
class Sample:
    """One question about one image; what its fields must be, `defect` checks.

    Attributes:
        id: unique within the data set; the wording of the question depends on it, so keep it stable.
        patient_id: all samples of a patient must be in one split.
        split: "train", "val" or "test".
        dataset: short name of the data set, first half of verl's `data_source`.
        task: "report", "grounding" or "conversation".
        image: path of an image file, or the bytes of one; None for a report whose image is not at hand.
        width, height: size of that image in pixels, as stored; 0 without one.
        report: reference text, for task "report".
        phrase: what to locate, for task "grounding".
        boxes: where it is, for task "grounding"; empty if it is not there.
        kind: which of the task's questions is asked, see `KINDS`; "" is the task's first.
        question: asked verbatim instead of one of our own, without the image tag.
        answer: the verbatim answer for SFT, instead of `report` or of `boxes` as the box convention writes them.
        turns: questions with their answers, for task "conversation", which becomes rows for SFT only.
        indication: why the film was taken; like `prior` and `lateral` for task "report", and a part of the question.
        prior: text of the patient's previous report.
        lateral: a second image of the same study; `width` and `height` describe the first.
    """

    id: str
    patient_id: str
    split: str
    dataset: str
    task: str
    image: Path | bytes | None
    width: int
    height: int
    report: str | None = None
    phrase: str | None = None
    boxes: tuple[Box, ...] = ()
    kind: str = ""
    question: str | None = None
    answer: str | None = None
    turns: tuple[tuple[str, str], ...] = ()
    indication: str = ""
    prior: str = ""
    lateral: Path | bytes | None = None

    def defect(self) -> str:
        """The first rule that the sample breaks, "" if none.

        The writer asks, not the constructor: an error there would end a loader, and so a run, for one bad row.
        """
        report, turns, context = self.task == "report", self.turns, self.indication or self.prior or self.lateral
        without_image = report and self.width == self.height == 0
        sized = self.width > 0 < self.height if self.image is not None else without_image
        for rule, holds in (
            ("id, patient_id and dataset must not be empty", self.id and self.patient_id and self.dataset),
            (f"split must be one of {SPLITS}", self.split in SPLITS),
            (f"task must be one of {TASKS}", self.task in TASKS),
            ("width and height must be positive, or 0 for a report without image", sized),
            ("a report sample needs a report", not report or (self.report and self.report.strip())),
            ("a grounding sample needs a phrase", self.task != "grounding" or (self.phrase and self.phrase.strip())),
            ("kind must be one of the task's", not self.kind or self.kind in KINDS.get(self.task, ())),
            ("a question must not be blank", self.question is None or self.question.strip()),
            ("an answer must not be blank", self.answer is None or self.answer.strip()),
            ("a conversation, and nothing else, needs turns", (self.task == "conversation") == bool(turns)),
            ("turns must not be blank", not turns or all(part.strip() for turn in turns for part in turn)),
            ("only a report sample can have an indication, a prior report or a lateral image", report or not context),
            ("a lateral image needs a first image", self.lateral is None or self.image is not None),
        ):
            if not holds:
                return rule
        return ""

    def __repr__(self) -> str:
        shown = ((k, f"<{len(v)} bytes>" if isinstance(v, bytes) else v) for k, v in vars(self).items())
        return f"Sample({', '.join(f'{k}={v!r}' for k, v in shown)})"


def stable_hash(text: str) -> int:
    """A 64-bit number from a text, the same in every process (Python's own hash() is salted per process)."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def split_of(patient_id: str, shares: Sequence[float], salt: str = "") -> str:
    """The split of a patient by hash, so that adding patients never moves others; another salt gives another split.

    `shares` are of train, val and test, each at least 0, summing to 1.

    >>> split_of("p0001", (0.8, 0.1, 0.1))
    'train'
    """
    position = stable_hash(f"{salt}/{patient_id}") / 2**64
    bounds = (shares[0], shares[0] + shares[1])
    return SPLITS[sum(position >= bound for bound in bounds)]
