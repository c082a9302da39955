import subprocess
import sys
from collections import Counter

import pytest

from data_prep.sample import split_of, stable_hash


@pytest.mark.parametrize(
    "change",
    [
        {"id": ""},
        {"patient_id": ""},
        {"split": "validate"},
        {"task": "vqa"},
        {"width": 0},
        {"phrase": None},
        {"task": "report", "report": " "},
        {"kind": "findings"},
        {"question": " "},
        {"answer": ""},
        {"image": None},
        {"image": None, "width": 0, "height": 0},
        {"task": "conversation"},
        {"turns": (("Where?", "There."),)},
        {"task": "conversation", "turns": (("Where?", " "),)},
        {"indication": "Cough."},
        {"prior": "Clear."},
        {"lateral": b"film"},
        {"task": "report", "report": "Clear.", "image": None, "width": 0, "height": 0, "lateral": b"film"},
    ],
)
def test_a_broken_sample_says_which_rule_it_breaks(make_sample, change):
    assert make_sample().defect() == ""
    defect = make_sample(**change).defect()
    assert " must " in defect or " needs " in defect or "only a report" in defect


def test_the_shown_sample_does_not_spill_image_bytes(make_sample):
    assert "bytes>" in repr(make_sample()) and "PNG" not in repr(make_sample())


def test_a_split_depends_on_patient_and_salt_only():
    splits = Counter(split_of(f"p{i}", (0.8, 0.1, 0.1)) for i in range(5000))
    assert set(splits) == {"train", "val", "test"}
    assert abs(splits["train"] / 5000 - 0.8) < 0.03
    assert [split_of(f"p{i}", (1.0, 0.0, 0.0)) for i in range(50)] == ["train"] * 50
    assert [split_of(f"p{i}", (0.0, 0.0, 1.0)) for i in range(50)] == ["test"] * 50
    assert any(split_of(f"p{i}", (0.5, 0.5, 0), "x") != split_of(f"p{i}", (0.5, 0.5, 0), "y") for i in range(50))


def test_the_hash_is_the_same_in_another_process():
    code = "from data_prep.sample import stable_hash; print(stable_hash('p0001'))"
    assert int(subprocess.check_output([sys.executable, "-c", code])) == stable_hash("p0001")
