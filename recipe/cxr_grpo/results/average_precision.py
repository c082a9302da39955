"""COCO's average precision (AP) by pycocotools, and of bootstrap draws."""

import contextlib
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


class Matches(NamedTuple):
    """What AP needs to know of samples, whichever of them are drawn; boxes are in the order of their ranks."""

    hits: np.ndarray  # (10 thresholds of IoU, boxes): whether a box has a reference to itself
    boxes: np.ndarray  # (samples): how many each has
    references: np.ndarray


def coco(rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, float | None], Matches]:
    """``map50_coco`` and ``map_coco`` (IoU 0.5 to 0.95) by pycocotools, None without reference boxes, and its matches.

    Labels and sizes are ignored. Texts give no confidence, so that all are equal and boxes rank by the order of rows
    and text, up to 100 for a film. Invalid boxes count as false, after the others of their film.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    sides = {"reference": COCO(), "prediction": COCO()}
    for side, data in sides.items():
        boxes = [(n, box) for n, row in enumerate(rows) for box in row["boxes"][side]]
        if side == "prediction":
            boxes += [(n, [0] * 4) for n, of in enumerate(rows) for _ in range(min(of["counts"]["invalid_boxes"], 100))]
        corners = [(n, [x1, y1, x2 - x1, y2 - y1]) for n, (x1, y1, x2, y2) in boxes]
        same = {"category_id": 1, "iscrowd": 0, "score": 1.0}
        found = [{"id": i, "image_id": n, "bbox": b, "area": b[2] * b[3]} | same for i, (n, b) in enumerate(corners, 1)]
        images = [{"id": n} for n in range(len(rows))]
        data.dataset = {"images": images, "categories": [{"id": 1}], "annotations": found}
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        for data in sides.values():
            data.createIndex()
        evaluation = COCOeval(*sides.values(), "bbox")
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, math.inf]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][..., -1]  # by IoU, recall, category and area; -1: no reference box
    means = {"map50_coco": precision[0].mean(), "map_coco": precision.mean()}
    films = [(of["dtMatches"] > 0, of["gtIds"]) if of else (np.zeros((10, 0)), ()) for of in evaluation.evalImgs]
    counts = np.array([(hits.shape[1], len(ids)) for hits, ids in films])
    hits = np.hstack([hits for hits, _ in films]).astype(bool)
    return {name: None if mean < 0 else float(mean) for name, mean in means.items()}, Matches(hits, *counts.T)


def average_precision(of: Matches, repeats: np.ndarray, thresholds: int) -> float:
    """AP, the mean over the first ``thresholds`` of IoU 0.5, 0.55 ... 0.95; 0 to 1, NaN without a reference box.

    Each sample is there as often as ``repeats`` (int) says, as one film after the other: exactly what pycocotools finds
    in such a set. Weights of boxes would give the same only where the boxes of a film are all hits or all false.

    >>> pair = Matches(np.array([[True, False]]), boxes=np.array([1, 1]), references=np.array([1, 1]))
    >>> [round(average_precision(pair, np.array(repeats), 1), 3) for repeats in ([1, 1], [3, 0], [0, 2])]
    [0.505, 1.0, 0.0]
    """
    if not (total := int(repeats @ of.references)):
        return math.nan
    samples = np.repeat(np.arange(len(repeats)), repeats)
    boxes = of.boxes[samples]
    shifts = (np.cumsum(of.boxes) - of.boxes)[samples] - (np.cumsum(boxes) - boxes)
    drawn = np.repeat(shifts, boxes) + np.arange(boxes.sum())  # the ranks that the boxes had
    needed = np.searchsorted(np.arange(1, total + 1) / total, np.linspace(0, 1, 101))  # hits before a recall's own
    areas = []
    for hits in of.hits[:thresholds].take(drawn, axis=1):
        ranks = np.flatnonzero(hits) + 1
        precision = np.arange(1, len(ranks) + 1) / (ranks + np.spacing(1))  # as pycocotools, to the last bit
        best = np.maximum.reduceat(precision, needed[needed < len(ranks)])  # between two recalls
        areas.append(np.maximum.accumulate(best[::-1]).sum() / 101)
    return float(np.mean(areas))


def of_runs(runs: Sequence[tuple[Matches, np.ndarray]], thresholds: int, weights: np.ndarray) -> np.ndarray:
    """The mean over runs of their AP in each draw: ``weights`` (draws, samples) says how often it has a sample.

    Each run has the places of its films among the samples; -1: not among them.
    """
    padded = np.pad(weights, ((0, 0), (0, 1)))  # place -1 has weight 0
    return np.mean([[average_precision(of, draw[at], thresholds) for draw in padded] for of, at in runs], axis=0)
