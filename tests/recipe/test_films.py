import json

import pytest

pytest.importorskip("verl")

from data_prep.cli import main as data_prep
from recipe.cxr_grpo import films


@pytest.fixture
def data(tmp_path):
    assert data_prep(["demo", "--out", str(tmp_path / "data"), "--patients", "12", "--shares", "0,1,0"]) == 0
    return tmp_path / "data" / "val.parquet"


def test_write_names_the_files_that_it_made(data, tmp_path, capsys):
    assert films.main(["write", str(data), "--out", str(tmp_path / "films"), "--control", "swapped", "blank"]) == 0
    made = [tmp_path / "films" / f"val-{control}.parquet" for control in ("swapped", "blank")]
    assert capsys.readouterr().out.split() == [str(path) for path in made]
    assert all(path.is_file() for path in made)


def test_two_files_of_one_name_are_refused(data, tmp_path, capsys):
    assert films.main(["write", str(data), str(data), "--out", str(tmp_path / "films")]) == 2
    assert "two of the files have the same name" in capsys.readouterr().err


def test_a_file_that_is_not_for_rl_is_refused_by_name(data, tmp_path, capsys):
    missing, supervised = data.with_name("none.parquet"), data.with_name("sft_val.parquet")
    for given, complaint in ((missing, f"{missing}: no such file"), (supervised, f"{supervised} is for supervised")):
        assert films.main(["write", str(given), "--out", str(tmp_path / "films")]) == 2
        assert complaint in capsys.readouterr().err
    assert not (tmp_path / "films").exists()


def test_show_compares_the_films_of_every_validation(tmp_path, capsys):
    (tmp_path / "validation").mkdir()
    truth = {"patient_id": "p", "task": "report", "box_format": "radvlm", "report": "Clear."}
    for step, scores in ((0, (0.5, 0.4)), (10, (0.75, 0.5))):
        rows = [{"id": "a", **truth}, {"id": "a", **truth, "films": "swapped"}]
        lines = [json.dumps({"input": "", "output": "", "gts": json.dumps(row), "score": score})
                 for row, score in zip(rows, scores, strict=True)]  # fmt: skip
        (tmp_path / "validation" / f"{step}.jsonl").write_text("\n".join(lines))
    assert films.main(["show", str(tmp_path)]) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("step 0, report: own film 0.500, swapped 0.400, difference +0.100 (95 % interval")
    assert last.startswith("step 10, report: own film 0.750, swapped 0.500, difference +0.250")


def test_a_run_without_other_films_is_told_what_to_do(tmp_path, capsys):
    assert films.main(["show", str(tmp_path)]) == 2
    assert "has no validation" in capsys.readouterr().err
    (tmp_path / "validation").mkdir()
    truth = {"id": "a", "patient_id": "p", "task": "report", "box_format": "radvlm", "report": "Clear."}
    row = {"input": "", "output": "", "gts": json.dumps(truth), "score": 0.5}
    (tmp_path / "validation" / "0.jsonl").write_text(json.dumps(row))
    assert films.main(["show", str(tmp_path)]) == 2
    assert "data.val_files" in capsys.readouterr().err
