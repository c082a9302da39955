import json

import pytest

from data_prep import registry
from data_prep.cli import main
from data_prep.selection import is_normal


@pytest.fixture
def run(make_sample, tmp_path, monkeypatch, capsys, rows):
    """Prepares samples with these options; the exit status, the messages, and per split the ids of its rows."""

    def prepare(samples, *options):
        others = {name: entry for name, entry in registry.data_sets().items() if name != "toy"}
        monkeypatch.setattr(registry, "_registered", others)
        arguments = {"summary": "a toy", "example": "data_prep toy", "arguments": lambda parser: None}
        registry.data_set("toy", **arguments)(lambda options, problems: iter(samples))
        status = main(["toy", "--out", str(tmp_path / "out"), *map(str, options)])
        ids = {
            path.stem: [row["extra_info"]["id"] for row in rows(path)] for path in (tmp_path / "out").glob("t*.parquet")
        }
        return status, capsys.readouterr().err, ids

    return prepare


def reports(make_sample, texts, split="train"):
    base = {"task": "report", "boxes": (), "split": split}
    return [
        make_sample(id=f"{split}{i:03d}", patient_id=f"{split}{i}", report=text, **base) for i, text in enumerate(texts)
    ]


FILES = {
    "study.csv": "study_id,split\ns1,train\ns2,test\n99,test\n",
    "mimic.csv": "dicom_id,study_id,subject_id,split\nx,1,p1,train\nx,2,p1,test\n",
    "patient.csv": "patient_id,note,split\np1,,test\n",
    "patient_twice.csv": "patient_id,split\np1,test\np1,train\n",
    "map.json": json.dumps({"s1": "train", "s2-film": "test"}),
    "lists.json": json.dumps({"train": ["s1"], "test": [{"id": "s2-film", "report": "-"}], "validate": []}),
    "rows.json": json.dumps([{"study_id": "s1", "split": "train"}, {"study_id": "s2", "split": "Test"}]),
    "longer.csv": "id,split\np1_IM-0001,test\n",
}


@pytest.mark.parametrize("name", FILES)
def test_a_published_split_moves_whole_patients(run, make_sample, tmp_path, name):
    (tmp_path / name).write_text(FILES[name])
    samples = [make_sample(id="s1-film"), make_sample(id="s2-film"), make_sample(id="s3-film", patient_id="p3")]
    status, said, ids = run(samples, "--split-file", tmp_path / name)
    assert status == 0
    assert ids == {"train": ["s3-film"], "test": ["s1-film", "s2-film"]}
    assert "note: samples moved from train to test by --split-file: 2" in said
    assert "note: patients whom --split-file does not name, in their own split: 1" in said
    assert ("several splits of --split-file" in said) == (
        name in {"study.csv", "mimic.csv", "patient_twice.csv"} or "json" in name
    )
    assert ("ids of --split-file that are not in the data: 1" in said) == (name == "study.csv")


@pytest.mark.parametrize(
    ("name", "content", "status", "message"),
    [
        ("a.csv", "id,split\nother,test\n", 1, "none of its 1 ids, e.g. 'other', is a patient, study or sample"),
        ("a.csv", "id,split\ns1,holdout\n", 2, "split 'holdout' of s1 must be train, val or test"),
        ("a.csv", "id,part\ns1,test\n", 2, "has no column split"),
        ("a.json", "{", 2, "a.json is not valid JSON"),
        ("a.json", "[1]", 2, "need {id: split}"),
        ("a.json", '[{"name": "s1", "split": "test"}]', 2, "need {id: split}"),
        ("b.json", None, 2, "cannot read"),
    ],
)
def test_a_split_file_that_helps_nobody_is_refused(run, make_sample, tmp_path, name, content, status, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    got, said, ids = run([make_sample(id="s1")], "--split-file", tmp_path / name)
    assert got == status and message in said and ids == {}


def test_at_most_n_training_samples_per_phrase_the_same_whatever_their_order(run, make_sample, tmp_path):
    samples = [make_sample(id=f"{phrase}{i}", phrase=phrase) for phrase in ("mass", "nodule") for i in range(30)]
    samples += [make_sample(id=f"t{i}", patient_id="p2", split="test") for i in range(9)]
    status, said, ids = run(samples, "--per-label", 5, "--card")
    assert status == 0 and len(ids["test"]) == 9
    assert sum(name.startswith("mass") for name in ids["train"]) == 5 and len(ids["train"]) == 10
    assert "training samples left out by --per-label: 50" in said
    assert "| training samples left out by --per-label | 50 |" in (tmp_path / "out/README.md").read_text()
    again = run(samples[::-1], "--per-label", 5)[2]["train"]
    assert sorted(again) == sorted(ids["train"])
    assert sorted(run(samples, "--per-label", 5, "--balance-seed", 1)[2]["train"]) != sorted(again)


def test_normal_reports_and_empty_detections_are_capped_in_training_only(run, make_sample):
    texts = ["Large effusion."] * 30 + ["The lungs are clear. No effusion."] * 70
    detection = [
        make_sample(id=f"d{i}", kind="detection", patient_id="d", boxes=() if i < 8 else make_sample().boxes)
        for i in range(10)
    ]
    samples = reports(make_sample, texts) + reports(make_sample, texts, "test") + detection
    status, said, ids = run(samples, "--max-normal", 0.25)
    assert status == 0 and len(ids["test"]) == 100
    assert sum(name.startswith("train") for name in ids["train"]) == 40  # 10 of 40 are 25 %
    assert sum(name.startswith("d") for name in ids["train"]) == 2
    assert "normal report samples of training left out by --max-normal: 60" in said
    assert "normal detection samples of training left out by --max-normal: 8" in said
    assert len(run(samples, "--max-normal", 1)[2]["train"]) == 110
    assert len(run(samples, "--max-normal", 0)[2]["train"]) == 32


@pytest.mark.parametrize(
    ("report", "normal"),
    [
        ("The heart is of normal size. No pneumothorax; lungs clear.", True),
        ("Normal chest except for a small nodule.", False),
        ("Mild cardiomegaly. No effusion.", False),
        ("1.", False),
    ],
)
def test_normal_reports(report, normal):
    assert is_normal(report) is normal
