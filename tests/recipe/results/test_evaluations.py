import hashlib
import json

import pytest
from made_results import corpus, grounding_rows, report_rows, write_results

from recipe.cxr_grpo import tables
from recipe.cxr_grpo.results.evaluations import pooled, read_evaluations, statistics, verify
from reward_fns.errors import UsageError


@pytest.fixture
def folder(tmp_path):
    rows = report_rows(30, 0.5)
    rows[3] |= {"status": "missing", "prediction": None}
    rows[4]["status"] = "failed"
    return write_results(tmp_path, "m", "mimic_cxr", rows)


def differing(folder):
    return [what for what, _, _, agrees in verify(read_evaluations([folder])[0]) if not agrees]


def change_json(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_row(folder, number, seal=True, **values):
    """Change a row of scores.jsonl, and its hash in results.json."""
    path = folder / "scores.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[number] |= values
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(text)
    if seal:
        hashes = json.loads((folder / "results.json").read_text())["hashes"]
        change_json(folder / "results.json", hashes=hashes | {"scores": hashlib.sha256(text).hexdigest()})


def test_metrics_of_the_whole_set_are_those_of_a_count_one_by_one(folder):
    found = read_evaluations([folder])[0]
    values = {name: float(of.of(of.columns.sum(axis=0))) for name, of in statistics(found.numbers).items()}
    assert values == pytest.approx(corpus(found.rows))


def test_a_sound_folder_agrees_and_the_command_says_so(folder, capsys):
    assert differing(folder) == []
    assert tables.main(["--verify", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "SHA-256 of scores" in printed
    assert "all that can be checked agrees" in printed


@pytest.mark.parametrize("field", ["samples", "failed", "missing", *corpus(report_rows(3, 0.5))])
def test_a_number_that_was_changed_is_found(folder, field, capsys):
    path = folder / "results.json"
    facts = json.loads(path.read_text())
    if field in facts:
        change_json(path, **{field: facts[field] + 1})
    else:
        change_json(path, metrics=facts["metrics"] | {field: facts["metrics"][field] + 0.001})
    assert field in differing(folder)
    assert tables.main(["--verify", str(folder)]) == 1
    assert "DIFFERS" in capsys.readouterr().out


@pytest.mark.parametrize(("field", "value"), [("task", "grounding"), ("films", "swapped")])
def test_another_task_or_other_films_than_the_rows_say_are_found(folder, field, value):
    change_json(folder / "results.json", **{field: value})
    assert f"rows of another {field}" in differing(folder)


@pytest.mark.parametrize("part", ["scores", "predictions"])
def test_a_file_that_was_changed_is_found_by_its_hash(folder, part):
    if part == "scores":
        change_row(folder, 0, seal=False, answer="better")
    else:
        with (folder / "predictions.jsonl").open("a") as file:
            file.write('{"id": "x", "prediction": ""}\n')
    assert differing(folder) == [f"SHA-256 of {part}"]


def test_a_score_that_was_changed_with_its_hash_is_found_in_the_mean(folder):
    metrics = report_rows(30, 0.5)[0]["metrics"]
    change_row(folder, 0, metrics=metrics | {"rouge_l": 1.0})
    assert differing(folder) == ["rouge_l"]


def test_counts_that_were_changed_with_their_hash_are_found(folder):
    change_row(folder, 0, counts={"chexbert": {"prediction": [1] * 14, "reference": [1] * 14}})
    assert {name.rpartition("_")[0] for name in differing(folder)} == {"chexbert_micro", "chexbert_macro"}


def test_boxes_that_were_changed_with_their_hash_are_found(tmp_path):
    folder = write_results(tmp_path, "m", "demo", grounding_rows(30, 0.7))
    assert differing(folder) == []
    row = grounding_rows(30, 0.7)[2]
    change_row(folder, 2, boxes=row["boxes"] | {"prediction": row["boxes"]["reference"]})
    assert differing(folder) == ["map50_coco", "map_coco"]
    change_row(folder, 2, boxes=row["boxes"], counts={"invalid_boxes": 9})
    assert differing(folder) == ["map50_coco", "map_coco"]


def test_a_set_without_any_true_box_agrees(tmp_path):
    rows = grounding_rows(4, 0.7)
    for row in rows:
        row["boxes"]["reference"] = []
    assert differing(write_results(tmp_path, "m", "demo", rows)) == []


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"id": "r00001"}, {"ids that recur", "predictions other than given"}),
        ({"prediction": "Another."}, {"predictions other than given"}),
        ({"status": "missing"}, {"missing"}),
        ({"status": "failed"}, {"failed"}),
        ({"prediction": None}, {"without a prediction", "predictions other than given"}),
        ({"films": "blank"}, {"rows of another films", "predictions other than given"}),
    ],
)
def test_a_row_that_was_changed_with_its_hash_is_found(folder, values, what):
    change_row(folder, 0, **values)
    assert {*differing(folder)} == what


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("results.json", "[]"),
        ("results.json", "{"),
        ("results.json", "[" * 100_000),
        ("results.json", '{"metrics": {}, "hashes": {}, "higher_is_better": {}, "model": 3}'),
        ("scores.jsonl", ""),
        ("scores.jsonl", "1\n"),
        ("scores.jsonl", '{"id": "a", "patient_id": "b", "metrics": {"rouge_l": "high"}}\n'),
        (
            "scores.jsonl",
            '{"id": "a", "patient_id": "b", "metrics": {}, "counts": {"chexbert": {"prediction": [1]}}}\n',
        ),
        ("scores.jsonl", '{"id": "a", "patient_id": null, "metrics": {}}\n'),
        *(
            ("scores.jsonl", f'{{"id": "a", "patient_id": "b", "metrics": {{}}, {boxes}}}\n')
            for boxes in (
                '"boxes": {"prediction": [], "reference": []}, "counts": {}',
                '"boxes": {"prediction": []}, "counts": {"invalid_boxes": 0}',
                '"boxes": {"prediction": [[0, 0, 1]], "reference": []}, "counts": {"invalid_boxes": 0}',
                '"boxes": {"prediction": [[0, 0, 1, NaN]], "reference": []}, "counts": {"invalid_boxes": 0}',
                '"boxes": {"prediction": [[0, 0, 9, 9]], "reference": []}, "counts": {"invalid_boxes": 0}',
                '"boxes": {"prediction": [], "reference": []}, "counts": {"invalid_boxes": "1"}',
            )
        ),
    ],
)
def test_what_is_not_a_results_folder_is_refused_by_name(folder, name, text, capsys):
    (folder / name).write_text(text)
    assert tables.main(["--verify", str(folder)]) == 2
    message = capsys.readouterr().err
    assert str(folder) in message
    assert "Traceback" not in message


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"no results\.json in"):
        read_evaluations([tmp_path])


def arms(found):
    return {"own": found}


def test_seeds_on_the_same_data_are_averaged_sample_by_sample(tmp_path):
    rows = {seed: report_rows(20, 0.5, seed) for seed in (0, 1, 2)}
    for seed, of_seed in rows.items():
        write_results(tmp_path, "m", "mimic_cxr", of_seed, seed)
    numbers = pooled(arms(read_evaluations([tmp_path])))
    assert len(numbers) == 20
    for place, (_, sample) in enumerate(numbers.index):
        assert sample == rows[0][place]["id"]
        mean = sum(rows[seed][place]["metrics"]["rouge_l"] for seed in rows) / 3
        assert numbers["rouge_l"].iloc[place] == pytest.approx(mean)


def test_a_metric_that_one_seed_lacks_is_averaged_over_the_others(tmp_path):
    for seed in (0, 1):
        rows = grounding_rows(4, 0.5, seed)
        rows[0]["metrics"]["acc_50"] = 1.0 if seed else None
        write_results(tmp_path, "m", "demo", rows, seed)
    numbers = pooled(arms(read_evaluations([tmp_path])))
    assert numbers["acc_50"].iloc[0] == 1
    assert numbers["acc_50"].isna().tolist() == [False, True, False, True]


def test_seeds_with_data_of_their_own_give_more_samples_and_patients(tmp_path):
    for seed in (0, 1):
        rows = report_rows(20, 0.5, seed)
        for row in rows:
            row["reference"] += f" Film of seed {seed}."  # another film under the same id, as in the quickstart
        write_results(tmp_path, "m", "demo", rows, seed)
    numbers = pooled(arms(read_evaluations([tmp_path])))
    assert len(numbers) == 40
    assert numbers["patient"].nunique() == 2 * len({row["patient_id"] for row in rows})


def test_a_sample_that_is_there_twice_is_refused_in_a_table(folder):
    change_row(folder, 0, id="r00001")
    with pytest.raises(UsageError, match="seed None of m or one of its samples is there twice"):
        pooled(arms(read_evaluations([folder])))


def test_a_seed_that_is_there_twice_or_without_own_films_is_refused(tmp_path):
    write_results(tmp_path / "a", "m", "demo", report_rows(5, 0.5), 0)
    write_results(tmp_path / "b", "m", "demo", report_rows(5, 0.5), 0)
    with pytest.raises(UsageError, match="seed 0 of m or one of its samples is there twice"):
        pooled(arms(read_evaluations([tmp_path])))
    write_results(tmp_path / "c", "m", "demo", report_rows(5, 0.5, films="swapped"), 1)
    (swapped,) = read_evaluations([tmp_path / "c"])
    with pytest.raises(UsageError, match="seed 1 of m has no results on the patients' own films"):
        pooled({"own": read_evaluations([tmp_path / "a"]), "swapped": [swapped]}, "swapped")
