import json

import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_prep.sample import Sample
from data_prep.writer.dataset import DatasetWriter
from recipe.cxr_grpo.results import films
from recipe.cxr_grpo.results.validation import Row
from reward_fns.boxes import Box
from reward_fns.errors import UsageError


@pytest.fixture
def data(tmp_path):
    """Four patients with a report, a nodule and, but for the last, an opacity each; films differ in size."""
    with DatasetWriter(tmp_path / "data", "qwen25vl") as writer:
        for number in range(4):
            path = tmp_path / f"{number}.png"
            side = 100 + 40 * number
            Image.new("L", (side, side), 40 * number).save(path)
            film = path, side, side
            writer.add(Sample(f"r{number}", f"p{number}", "val", "mine", "report", *film, report=f"Report {number}."))
            for label in ("nodule", "opacity")[: 1 if number == 3 else 2]:
                box = Box(0.1, 0.2, 0.3, 0.4, label)
                name = f"{label}{number}"
                grounding = {"phrase": label, "boxes": (box,)}
                writer.add(Sample(name, f"p{number}", "val", "mine", "grounding", *film, **grounding))
    return tmp_path / "data" / "val.parquet"


def rows_of(path):
    rows = pq.read_table(path).to_pylist()
    return {row["extra_info"]["id"]: (row, json.loads(row["reward_model"]["ground_truth"])) for row in rows}


def test_a_swapped_film_is_another_patients_and_all_else_stays(data, tmp_path):
    assert films.write_control(data, tmp_path / "out" / "swapped.parquet") == 11
    assert pq.read_schema(tmp_path / "out" / "swapped.parquet") == pq.read_schema(data)
    before, after = rows_of(data), rows_of(tmp_path / "out" / "swapped.parquet")
    owner = {row["images"][0]["image"]: truth["patient_id"] for row, truth in before.values()}
    frames = {row["images"][0]["image"]: truth["frame"] for row, truth in before.values() if "frame" in truth}
    for name, (row, truth) in after.items():
        own, own_truth = before[name]
        shown = row["images"][0]["image"]
        assert owner[shown] != truth["patient_id"] == own_truth["patient_id"]
        assert (row["prompt"], row["extra_info"]) == (own["prompt"], own["extra_info"])
        assert truth["films"] == "swapped"
        changed = {"films", "frame"}
        assert {k: v for k, v in truth.items() if k not in changed} == {
            k: v for k, v in own_truth.items() if k not in changed
        }
        if truth["task"] == "grounding":
            assert truth["frame"] == frames[shown]
        assert row["data_source"] == f"mine/films_swapped/{truth['task']}"


def test_the_seed_decides_the_films(data, tmp_path):
    def images(seed):
        films.write_control(data, tmp_path / "out.parquet", seed=seed)
        return [row["images"] for row, _ in rows_of(tmp_path / "out.parquet").values()]

    assert images(1) == images(1)
    assert len({str(images(seed)) for seed in range(5)}) > 1


def test_a_film_with_the_same_finding_shows_what_is_asked_for(data, tmp_path):
    assert films.write_control(data, tmp_path / "same.parquet", "same_finding") == 7  # not the reports
    with_opacity = {row["images"][0]["image"] for name, (row, _) in rows_of(data).items() if "opacity" in name}
    for name, (row, _) in rows_of(tmp_path / "same.parquet").items():
        assert "opacity" not in name or row["images"][0]["image"] in with_opacity


@pytest.mark.parametrize("embed", [False, True])
def test_a_blank_film_has_one_gray_value_and_its_own_size(tmp_path, embed):
    Image.new("L", (60, 40), 7).save(tmp_path / "film.png")
    with DatasetWriter(tmp_path / "data", embed=embed) as writer:
        writer.add(Sample("r", "p", "val", "mine", "report", tmp_path / "film.png", 60, 40, report="A report."))
    assert films.write_control(tmp_path / "data" / "val.parquet", tmp_path / "blank.parquet", "blank") == 1
    ((row, _),) = rows_of(tmp_path / "blank.parquet").values()
    (entry,) = row["images"]
    if embed:
        (tmp_path / "picture.png").write_bytes(entry["bytes"])
    path = tmp_path / "picture.png" if embed else entry["image"].removeprefix("file://")
    with Image.open(path) as picture:
        assert (picture.size, picture.getextrema()) == ((60, 40), (128, 128))


def test_a_single_patient_cannot_be_swapped(tmp_path):
    Image.new("L", (60, 40), 7).save(tmp_path / "film.png")
    with DatasetWriter(tmp_path / "data") as writer:
        writer.add(Sample("r", "p", "val", "mine", "report", tmp_path / "film.png", 60, 40, report="A report."))
    with pytest.raises(UsageError, match="prepare more patients"):
        films.write_control(tmp_path / "data" / "val.parquet", tmp_path / "swapped.parquet")
    with pytest.raises(UsageError, match="unknown control 'black'"):
        films.write_control(tmp_path / "data" / "val.parquet", tmp_path / "swapped.parquet", "black")


def scored(scores, control=None):
    """Rows of patients p0, p1, ... with these scores."""
    truth = {"films": control} if control else {}
    return {str(i): Row(str(i), f"p{i}", "report", "radvlm", "", "", truth, score) for i, score in enumerate(scores)}


def test_film_dependence_is_paired_by_sample():
    own, control = scored([0.9, 0.5, 0.7, 1.0]), scored([0.5, 0.3, 0.4], "swapped")
    found = films.film_dependence(own, control)["report"]
    assert (found["own"], found["swapped"]) == (pytest.approx(0.7), pytest.approx(0.4))  # not the fourth sample
    assert found["difference"]["mean"] == pytest.approx(0.3)
    assert found["difference"]["n"] == 3
    assert found["difference"]["ci95"] == pytest.approx((0.2, 0.4))


def test_the_change_of_film_dependence_is_paired_by_sample():
    before = {"own": scored([0.5, 0.5]), "swapped": scored([0.4, 0.4], "swapped")}
    after = {"own": scored([0.8, 0.6]), "swapped": scored([0.4, 0.4], "swapped")}
    found = films.compare(before, after)
    assert found["change"]["report"]["mean"] == pytest.approx(0.2)
    assert found["after"]["report"]["difference"]["mean"] == pytest.approx(0.3)
    json.dumps(found, allow_nan=False)
