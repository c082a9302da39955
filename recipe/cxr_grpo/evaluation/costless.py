"""Answers that cost nothing, as predictions of models that never saw a film: what a table's other rows must beat."""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from recipe.cxr_grpo.evaluation.predictions import Sample
from recipe.cxr_grpo.evaluation.scoring import METRICS
from reward_fns.boxes import Box, Quad
from reward_fns.conventions import get_convention
from reward_fns.errors import UsageError


def answers(samples: Sequence[Sample], train: Sequence[Sample], seed: int) -> Iterator[tuple[str, str, str]]:
    """Model, sample id and prediction, two for each sample: ``all-normal``, of metrics.yaml, and one by its task.

    ``class-mean-box`` is the mean of the training boxes with the label that the question names, or else of all;
    ``another-patients-report`` is drawn from the training reports. UsageError if the task has nothing to train on.
    """
    quads: dict[str, list[Quad]] = defaultdict(list)
    for box in (box for sample in train for box in sample.truth.boxes):
        for label in {"", box.label.casefold()}:
            quads[label].append(box.quad)
    means = {label: Box(*np.mean(of, axis=0).tolist()) for label, of in quads.items()}
    reports = [(sample.patient_id, sample.truth.report) for sample in train if sample.task == "report"]
    patients = {patient for patient, _ in reports}
    for sample in samples:
        yield "all-normal", sample.id, METRICS["all_normal"][sample.task]
        if not (means if sample.task == "grounding" else patients - {sample.patient_id}):
            raise UsageError(f"--train has no {sample.task} samples of other patients, which {sample.id!r} needs")
        if sample.task == "grounding":
            label = max((label for label in means if label in sample.question.casefold()), key=len)
            frame = sample.info["width"], sample.info["height"]
            yield "class-mean-box", sample.id, get_convention(sample.info["box_format"]).render([means[label]], frame)
        else:
            rng = random.Random(f"{seed} {sample.id}")
            while (drawn := rng.choice(reports))[0] == sample.patient_id:
                pass
            yield "another-patients-report", sample.id, drawn[1]
