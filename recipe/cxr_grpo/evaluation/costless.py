"""Answers that cost nothing, as the predictions of models that never saw a film: what a table's other rows must beat."""

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
    """Model name, sample id and prediction for each sample: all normal, and one by its task.

    - ``all-normal``: the same for every sample, see metrics.yaml.
    - ``class-mean-box``: the mean of all training boxes with the label that the question names, or of all of them.
    - ``another-patients-report``: one of the training reports, drawn by ``seed``.

    UsageError if the training samples have none of a task's.
    """
    boxes: dict[str, list[Quad]] = defaultdict(list)
    for box in (box for sample in train for box in sample.truth.boxes):
        for label in {"", box.label.casefold()}:
            boxes[label].append(box.quad)
    means = {label: Box(*np.mean(quads, axis=0).tolist()) for label, quads in boxes.items()}
    reports = [(sample.patient_id, sample.truth.report) for sample in train if sample.truth.report]
    for sample in samples:
        yield "all-normal", sample.id, METRICS["all_normal"][sample.task]
        if sample.task == "grounding" and means:
            label = max((label for label in means if label in sample.question.casefold()), key=len)
            convention = get_convention(sample.info.get("box_format") or "radvlm")
            yield "class-mean-box", sample.id, convention.render([means[label]], sample.truth.frame or (1, 1))
        elif sample.task == "report" and {patient for patient, _ in reports} - {sample.patient_id}:
            rng = random.Random(f"{seed} {sample.id}")
            while (drawn := rng.choice(reports))[0] == sample.patient_id:
                pass
            yield "another-patients-report", sample.id, drawn[1]
        else:
            raise UsageError(f"--train has no {sample.task} samples of other patients, for {sample.id}")
