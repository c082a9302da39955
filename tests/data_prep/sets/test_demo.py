import argparse
import hashlib
import io
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.cli import main
from data_prep.problems import Problems
from data_prep.sets.demo import samples
from reward_fns.conventions import get_convention


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    assert main(["demo", "--out", str(out), "--patients", "60", "--seed", "3"]) == 0
    return out


def all_rows(rows, folder):
    return [row for split in ("train", "val", "test") for row in rows(folder / f"{split}.parquet")]


def test_the_same_seed_gives_the_same_data(demo, rows, tmp_path):
    assert main(["demo", "--out", str(tmp_path), "--patients", "60", "--seed", "3"]) == 0
    for name in ("train", "val", "test", "sft_train", "sft_val"):
        moved = json.dumps(rows(tmp_path / f"{name}.parquet")).replace(str(tmp_path), str(demo))
        assert moved == json.dumps(rows(demo / f"{name}.parquet"))
    images = {path.name: path.read_bytes() for path in (demo / "images").iterdir()}
    assert images == {path.name: path.read_bytes() for path in (tmp_path / "images").iterdir()}
    assert main(["demo", "--out", str(tmp_path / "other"), "--patients", "60", "--seed", "4"]) == 0
    assert not set(images) & {path.name for path in (tmp_path / "other/images").iterdir()}


def test_texts_boxes_and_images_are_those_that_the_quickstart_was_tuned_on():
    options = argparse.Namespace(
        patients=12, seed=3, shares=(0.7, 0.2, 0.1), absent=0.5, house_style=0.5, loose_boxes=0
    )
    drawn = list(samples(options, Problems()))
    told = [[one.id, one.split, one.report, one.phrase, [list(box.quad) for box in one.boxes]] for one in drawn]
    assert hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16] == "5e666188f262c9fd"
    # Within the noise that other processors' float32 may bring.
    films = {one.image: np.asarray(Image.open(io.BytesIO(one.image)), float) for one in drawn}
    grey = [film.mean() for film in films.values()]
    assert grey == pytest.approx(
        [
            np.float64(112.25),
            np.float64(122.04),
            np.float64(111.16),
            np.float64(109.67),
            np.float64(116.52),
            np.float64(120.86),
            np.float64(119.08),
            np.float64(103.29),
            np.float64(108.25),
            np.float64(119.68),
            np.float64(96.44),
            np.float64(95.89),
            np.float64(96.17),
            np.float64(111.6),
            np.float64(110.74),
            np.float64(104.36),
        ],
        abs=0.02,
    )


def test_no_patient_is_in_two_splits(demo, rows):
    splits = defaultdict(set)
    for row in all_rows(rows, demo):
        splits[row["extra_info"]["patient_id"]].add(row["extra_info"]["split"])
    assert len(splits) == 60 and all(len(found) == 1 for found in splits.values())


def test_every_film_has_one_report_and_one_question_per_finding(demo, rows):
    films = defaultdict(list)
    for row in all_rows(rows, demo):
        films[row["images"][0]["image"]].append(row)
    assert 60 < len(films) <= 120
    for path, found in films.items():
        with Image.open(path.removeprefix("file://")) as image:
            assert image.size == (256, 256) and image.mode == "L"
        tasks = [row["extra_info"]["task"] for row in found]
        assert tasks.count("report") == 1 and tasks.count("grounding") <= 3
        report = json.loads(found[0]["reward_model"]["ground_truth"])["report"].lower()
        assert 8 <= len(report.split()) <= 70
        for row in found[1:]:
            truth = json.loads(row["reward_model"]["ground_truth"])
            assert truth["boxes"] and len(set(truth["labels"])) == 1
            kind = truth["labels"][0]
            told = {
                "enlarged heart": ("is enlarged", "size is increased", "cardiomegaly", "large cardiac silhouette"),
                "pleural effusion": (kind, "both sided effusions"),
            }.get(kind, (kind,))
            assert any(words in report for words in told)
            assert not any(f"no {words}" in report for words in told)


def test_gold_answers_parse_back_to_the_boxes(demo, rows):
    convention = get_convention("radvlm")
    for rl, sft in zip(rows(demo / "val.parquet"), rows(demo / "sft_val.parquet"), strict=True):
        if rl["extra_info"]["task"] == "grounding":
            wanted = json.loads(rl["reward_model"]["ground_truth"])["boxes"]
            parsed = convention.parse(sft["messages"][1]["content"], (256, 256))
            got = [[box.x1, box.y1, box.x2, box.y2] for box in parsed.boxes]
            assert np.allclose(got, wanted, atol=0.0051)


def test_absent_findings_on_request(rows, tmp_path):
    assert main(["demo", "--out", str(tmp_path), "--patients", "30", "--absent", "1", "--embed"]) == 0
    empty = [row for row in all_rows(rows, tmp_path) if '"boxes": []' in row["reward_model"]["ground_truth"]]
    assert len(empty) >= 30
    assert Image.open(io.BytesIO(empty[0]["images"][0]["bytes"])).size == (256, 256)
    assert not Path(tmp_path / "images").exists()


def drawn(**options):
    given = {"patients": 40, "seed": 3, "shares": (1, 0, 0), "absent": 0, "house_style": 0.5, "loose_boxes": 0}
    return list(samples(argparse.Namespace(**given | options), Problems()))


def test_the_house_style_is_one_wording_and_other_readers_keep_to_theirs():
    house = [sample.report for sample in drawn(house_style=1) if sample.report]
    others = [sample.report for sample in drawn(house_style=0) if sample.report]
    first = ("The heart size is normal.", "The heart is enlarged.")
    assert all(any(sentence in report for sentence in first) for report in house)
    assert not any(any(sentence in report for sentence in first) for report in others)
    assert any("No cardiomegaly." in report and "spaces are normal." in report for report in others)
    assert not any("No cardiomegaly." in report and "Neither effusion" in report for report in others)


def test_loose_boxes_are_larger_by_their_share_and_nothing_else_changes():
    for tight, loose in zip(drawn(), drawn(loose_boxes=0.25), strict=True):
        assert (tight.id, tight.report, tight.image) == (loose.id, loose.report, loose.image)
        for one, other in zip(tight.boxes, loose.boxes, strict=True):
            assert other.x1 == pytest.approx(max(one.x1 - 0.25 * (one.x2 - one.x1), 0))
            assert other.y2 == pytest.approx(min(one.y2 + 0.25 * (one.y2 - one.y1), 1))
