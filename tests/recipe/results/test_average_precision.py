"""COCO's AP against pycocotools' own summary, and that of draws against pycocotools on the drawn films."""

import contextlib
import io
import math
from functools import partial

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from recipe.cxr_grpo.results import intervals
from recipe.cxr_grpo.results.average_precision import Matches, average_precision, coco, of_runs
from recipe.cxr_grpo.results.intervals import bootstrap, interval, mean_of

THRESHOLDS = {"map50_coco": 1, "map_coco": 10}


def film(rng):
    """Boxes that overlap to any degree, copies, without area, outside, huge, none, some invalid; rarely very many."""
    sides = np.sort(rng.random((rng.integers(0, 4), 2, 2)), axis=1)
    true = sides.reshape(-1, 4).tolist()
    found = [[x1, y1, x1 + (x2 - x1) * rng.choice([0, 0.6, 0.8, 1]), y2] for x1, y1, x2, y2 in true + true[:1]]
    more = [[0.0, 0.0, 0.2, 0.2], [2.0, 2.0, 3.0, 3.0], [0.0, 0.0, 1e12, 1e12]][rng.integers(3)]
    found += [more] * (rng.integers(3) if rng.random() < 0.98 else 99)
    rng.shuffle(found)
    boxes = {"prediction": found[rng.integers(2) :], "reference": true + true[: rng.integers(2)]}
    return {"boxes": boxes, "counts": {"invalid_boxes": int(rng.integers(3) if rng.random() < 0.98 else 1000)}}


def row(predictions, references, invalid=0):
    return {"boxes": {"prediction": predictions, "reference": references}, "counts": {"invalid_boxes": invalid}}


def summarized(rows):
    """pycocotools' own way: results loaded into a gold set, and its summary."""
    gold, count = COCO(), iter(range(1, 10**9))
    as_xywh = [
        [[[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in row["boxes"][side]] for side in ("reference", "prediction")]
        for row in rows
    ]
    gold.dataset = {
        "info": {}, "images": [{"id": i + 1} for i in range(len(rows))], "categories": [{"id": 7, "name": "x"}],
        "annotations": [
            {"id": next(count), "image_id": i, "category_id": 7, "bbox": b, "area": b[2] * b[3], "iscrowd": 0}
            for i, (true, _) in enumerate(as_xywh, 1) for b in true
        ],
    }  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        gold.createIndex()
        found = [{"image_id": i, "category_id": 7, "bbox": b, "score": 0.5}
                 for i, (_, predicted) in enumerate(as_xywh, 1)
                 for b in predicted + [[0, 0, 0, 0]] * rows[i - 1]["counts"]["invalid_boxes"]]  # fmt: skip
        evaluation = COCOeval(gold, gold.loadRes(found), "bbox")
        evaluation.params.areaRng[0][1] = math.inf  # or it would ignore what is larger, rather than call it false
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {"map_coco": evaluation.stats[0], "map50_coco": evaluation.stats[1]}


def test_coco_equals_pycocotools():
    rng = np.random.default_rng(2)
    seen = set()
    for _ in range(15):
        rows = [film(rng) for _ in range(25)]
        assert coco(rows)[0] == pytest.approx(summarized(rows), abs=1e-12)
        seen.add(coco(rows)[0]["map50_coco"])
    assert len(seen) > 12


def test_coco_at_the_ends():
    true = [[0.1, 0.1, 0.5, 0.5]]
    assert coco([row(true, true)])[0] == pytest.approx({"map50_coco": 1.0, "map_coco": 1.0})
    assert coco([row([], true)])[0] == {"map50_coco": 0.0, "map_coco": 0.0}
    assert coco([row(true, [])])[0] == {"map50_coco": None, "map_coco": None}  # there is no reference box
    # An invalid box is false, and before all later rows.
    for first in (row([], [], invalid=1), row([[0.6, 0.6, 0.9, 0.9]], [])):
        assert coco([first, row(true, true)])[0]["map50_coco"] == pytest.approx(0.5)
        assert coco([row(true, true), first])[0]["map50_coco"] == pytest.approx(1.0)


def found(rows, repeats):
    return {name: average_precision(coco(rows)[1], repeats, number) for name, number in THRESHOLDS.items()}


def expected(rows):
    """What pycocotools says; NaN where there is no reference box."""
    return {name: math.nan if value is None else value for name, value in coco(rows)[0].items()}


def test_every_film_once_is_pycocotools():
    rng, seen = np.random.default_rng(1), set()
    for size in range(1, 50):
        rows = [film(rng) for _ in range(size)]
        assert found(rows, np.ones(size, dtype=int)) == pytest.approx(expected(rows), abs=1e-12, nan_ok=True)
        seen |= {*expected(rows).values()}
    assert len(seen) > 50


def test_films_drawn_several_times_are_pycocotools_on_copies_beside_each_other():
    rng, seen = np.random.default_rng(2), set()
    for _ in range(40):
        rows, repeats = [film(rng) for _ in range(9)], rng.integers(0, 4, size=9)
        copies = [row for row, number in zip(rows, repeats, strict=True) for _ in range(number)]
        assert found(rows, repeats) == pytest.approx(expected(copies), abs=1e-12, nan_ok=True)
        seen |= {*expected(copies).values()}
    assert len(seen) > 60


def test_draws_without_a_reference_box_and_without_any_box():
    true = [[0.1, 0.1, 0.5, 0.5]]
    rows = [row(true, []), row([], true), row([], [])]
    assert math.isnan(found(rows, np.array([3, 0, 1]))["map_coco"])
    assert found(rows, np.array([0, 2, 1])) == {"map50_coco": 0, "map_coco": 0}


def ranking(rows):
    return partial(of_runs, [(coco(rows)[1], np.arange(len(rows)))], 10)


def test_the_bootstrap_draws_whole_patients_in_the_order_of_the_films(monkeypatch):
    monkeypatch.setattr(intervals, "_CHUNK", 31)  # two draws at a time
    rng = np.random.default_rng(3)
    rows, patients = [film(rng) for _ in range(15)], [f"p{number}" for number in rng.integers(6, size=15)]
    names = sorted({*patients})
    drawn = bootstrap({"ap": ranking(rows), "mean": mean_of(np.arange(15))}, patients, 30, seed=4)
    assert drawn["ap"][0] == pytest.approx(expected(rows)["map_coco"])
    rng = np.random.default_rng(4)
    for ap, mean in zip(drawn["ap"][1], drawn["mean"][1], strict=True):
        chosen = [names[number] for number in rng.integers(len(names), size=len(names))]
        films = [number for number, name in enumerate(patients) for _ in range(chosen.count(name))]
        assert mean == pytest.approx(np.mean(films))  # the same draws as those of other metrics
        assert ap == pytest.approx(expected([rows[number] for number in films])["map_coco"], nan_ok=True)


def test_a_run_counts_only_its_samples_and_runs_are_averaged():
    rng = np.random.default_rng(5)
    rows = [[film(rng) for _ in range(8)] for _ in range(2)]
    places = [np.array([3, 2, 1, 0, -1, -1, -1, -1]), np.arange(8)]  # the first run has four of the samples, reversed
    runs = [(coco(of)[1], where) for of, where in zip(rows, places, strict=True)]
    weights = rng.integers(0, 3, size=(5, 8))
    for draw, value in zip(weights, of_runs(runs, 10, weights), strict=True):
        copies = [[row for row, n in zip(rows[0], draw[[3, 2, 1, 0]], strict=False) for _ in range(n)]]
        copies += [[row for row, n in zip(rows[1], draw, strict=True) for _ in range(n)]]
        assert value == pytest.approx(np.mean([expected(of)["map_coco"] for of in copies]), nan_ok=True)


def one_box(hits):
    """Films with one box found and one true box, for which a share of films is right."""
    ones = np.ones(len(hits), dtype=int)
    return partial(of_runs, [(Matches(np.asarray(hits)[None], ones, ones), np.arange(len(hits)))], 1)


def test_films_that_are_alike_have_no_width_and_models_that_are_alike_no_change():
    alike = [row([[0, 0, 1, 0.7]], [[0, 0, 1, 1]])] * 20
    value, draws = bootstrap({"": ranking(alike)}, [*map(str, range(20))], 100)[""]
    assert value == pytest.approx(0.5)  # right at the thresholds up to 0.7
    assert interval(draws) == pytest.approx((value, value), abs=1e-12)


def test_a_change_between_two_models_is_paired():
    rng = np.random.default_rng(6)
    before = rng.random(200) < 0.5
    after = before | (np.arange(200) % 10 == 0)  # better on a tenth of the films, alike on the others
    models = {"before": one_box(before), "after": one_box(after), "again": one_box(before)}
    drawn = {name: draws for name, (_, draws) in bootstrap(models, [*map(str, range(200))], 300).items()}
    change = drawn["after"] - drawn["before"]
    assert interval(change)[0] > 0
    assert change.std() < 0.6 * np.hypot(drawn["after"].std(), drawn["before"].std())  # as if drawn apart
    assert interval(drawn["again"] - drawn["before"]) == (0, 0)


def test_the_interval_covers_the_mean_over_sets_of_its_size_if_films_of_a_patient_are_alike():
    rng, covered, alone = np.random.default_rng(7), [], []
    sets = np.repeat(rng.random((700, 100)) < 0.6, 2, axis=1)
    truth = np.mean([one_box(hits)(np.ones((1, 200), dtype=int)) for hits in sets])
    for hits in sets[:150]:
        for found, patients in ((covered, np.repeat(np.arange(100), 2)), (alone, np.arange(200))):
            low, high = interval(bootstrap({"": one_box(hits)}, patients.astype(str), 200)[""][1])
            found.append(low <= truth <= high)
    assert 0.90 <= np.mean(covered) <= 0.99
    assert np.mean(alone) < 0.88
