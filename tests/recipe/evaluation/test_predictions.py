"""What goes in: predictions as JSON lines or verl's dumps, gold as data_prep writes it; and what is refused."""

import json

import pytest

from recipe.cxr_grpo.results import films
from reward_fns.ground_truth import parse_ground_truth


def dumped(path, rows, films="own"):
    """What verl dumps for these predictions about this data."""
    import pyarrow.parquet as pq

    gold = {row["extra_info"]["id"]: row for row in pq.read_table(path).to_pylist()}
    for row in rows:
        sample = gold[row["id"]]
        asked = f"user\n{sample['prompt'][0]['content'].replace('<image>', '')}\nassistant\n"
        truth = sample["reward_model"]["ground_truth"]
        yield {"input": asked, "output": row["prediction"], "gts": truth, "score": 0.5, "step": 3}


def test_a_dump_and_json_lines_give_the_same_files(prepare, jsonl, perfect, run):
    data = prepare()
    rows = [{"id": row["id"], "prediction": row["prediction"], "films": "own"} for row in perfect()][1:]
    lines, dump = jsonl(rows), jsonl([*dumped(data, rows)], "3.jsonl")
    runs = [
        run("--predictions", lines, "--data", data, "--model", "m", out="a"),
        run("--predictions", dump, "--data", data, "--model", "m", out="b"),
    ]
    assert [done.status for done in runs] == [0, 0], runs
    for task in ("report", "grounding"):
        files = [
            {path.name: path.read_bytes() for path in (done.folder / f"m/mine-{task}/own").iterdir()} for done in runs
        ]
        assert files[0].keys() == {"predictions.jsonl", "scores.jsonl", "results.json"}
        for name in ("predictions.jsonl", "scores.jsonl"):
            assert files[0][name] == files[1][name]
        results = [json.loads(of["results.json"]) for of in files]
        assert results[0].pop("command") != results[1].pop("command")
        assert results[0] == results[1]


def test_the_gold_of_a_dump_is_enough(prepare, jsonl, perfect, run):
    rows = perfect()
    done = run("--dump", jsonl([*dumped(prepare(), rows)], "0.jsonl"), "--model", "m")
    assert done.status == 0, done.err
    results, scores = done.read("m/dump-grounding/own")
    assert results["metrics"]["ap50_paper"] == 0.75  # two of eight samples have no box, which the published AP makes 0
    assert results["metrics"]["f1_50"] == 1.0 and results["data_set"] == "dump"
    assert scores["n0"]["question"].count("nodule") and "\n" not in scores["n0"]["question"]
    assert done.read("m/dump-report/own")[0]["metrics"]["rouge_l"] == 1.0


def test_arms_of_one_file(prepare, jsonl, perfect, run):
    data = prepare()
    rows = perfect() + perfect(films="swapped")[:3] + perfect(films="blank")
    done = run("--predictions", jsonl(rows), "--data", data, "--model", "m", "--films", "own,swapped")
    assert done.status == 0, done.err
    assert {str(path.relative_to(done.folder / "m")) for path in (done.folder / "m").glob("*/*")} == {
        "mine-report/own", "mine-report/swapped", "mine-grounding/own", "mine-grounding/swapped",
    }  # fmt: skip
    results, scores = done.read("m/mine-grounding/swapped")
    assert (results["samples"], results["missing"]) == (8, 6)  # whoever swaps some films answers for all
    assert scores["n0"]["image"] is None and scores["n0"]["films"] == "swapped"


def test_boxes_in_pixels_are_those_of_the_film_shown(prepare, jsonl, run, tmp_path):
    """A swapped film may have another size, which its own gold in the control's file tells."""
    data = prepare(box_format="pixel")
    control = tmp_path / "swapped.parquet"
    films.write_control(data, control)
    rows = [{"id": "n0", "prediction": "[10, 28, 30, 56]", "films": arm} for arm in ("own", "swapped")]
    done = run("--predictions", jsonl(rows), "--data", data, control, "--model", "m")
    assert done.status == 0, done.err
    for arm in ("own", "swapped"):
        results, scores = done.read(f"m/mine-grounding/{arm}")
        assert results["data_set"] == "mine"
        metrics = scores["n0"]["metrics"]
        assert metrics["ap50_paper"] == metrics["acc_50"] == 1.0 and metrics["mean_iou"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ({"id": "n9", "prediction": "x"}, "line 2: no sample is named 'n9' with films own"),
        ({"id": "n0", "prediction": "x"}, "line 2: a second prediction for sample 'n0' with films own"),
        ({"id": "n1", "prediction": 3}, 'line 2: need {"id": text, "prediction": text or null}'),
        ({"id": 1, "prediction": "x"}, "line 2: need"),
        ({"id": "n1"}, "line 2: need"),
        (["n1", "x"], "line 2: need"),
        ({"id": "n1", "prediction": "x", "films": "swaped"}, "did you mean 'swapped'?"),
    ],
)
def test_bad_predictions_are_refused_by_name(prepare, jsonl, run, line, complaint):
    path = jsonl([{"id": "n0", "prediction": "None."}, line])
    done = run("--predictions", path, "--data", prepare(), "--model", "m")
    assert done.status == 2 and complaint in done.err, done.err
    assert not done.folder.exists()


def test_files_that_are_none_are_refused(prepare, run, tmp_path):
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"id": "n0", "prediction": "None."}\n{"id":')
    for path in (broken, tmp_path / "none.jsonl"):
        done = run("--predictions", path, "--data", prepare(), "--model", "m")
        assert done.status == 2 and f"cannot read the predictions {path}" in done.err
    sft = prepare().with_name("sft_val.parquet")
    done = run("--predictions", tmp_path / "empty.jsonl", "--data", sft, "--model", "m")
    assert done.status == 2


def test_gold_that_is_none_is_refused(prepare, jsonl, perfect, run):
    data = prepare()
    predictions = jsonl(perfect())
    sft = data.with_name("sft_val.parquet")
    assert sft.exists()
    done = run("--predictions", predictions, "--data", sft, "--model", "m")
    assert done.status == 2 and "not a row for RL" in done.err
    done = run("--predictions", predictions, "--model", "m")
    assert done.status == 2 and "has no gold; name the parquet files with --data" in done.err
    done = run("--predictions", predictions, "--data", data, data, "--model", "m")
    assert done.status == 2 and "a second sample 'r0'" in done.err


def test_a_dump_of_another_data_set_with_the_same_ids_is_refused(prepare, jsonl, perfect, run):
    rows = [*dumped(prepare(), perfect())]
    truth = json.loads(rows[1]["gts"])
    assert parse_ground_truth(truth, "grounding")[0]
    rows[1]["gts"] = json.dumps(truth | {"boxes": [[0.1, 0.2, 0.3, 0.5]]})
    done = run("--dump", jsonl(rows), "--data", prepare(), "--model", "m")
    assert done.status == 2 and "sample 'n0' has another ground truth than in --data" in done.err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "give --predictions, or --costless"),
        (["--costless"], "give --predictions, or --costless with --data and --train"),
        (["--predictions", "P", "--data", "D", "--train", "D"], "--costless"),
        (["--predictions", "P", "--data", "D"], "--model must be the name of a folder"),
        (["--predictions", "P", "--data", "D", "--model", "../up"], "--model must be the name of a folder"),
        (
            ["--predictions", "P", "--data", "D", "--model", "m", "--films", "true"],
            "unknown name in --films or --metrics",
        ),
        (["--predictions", "P", "--data", "D", "--model", "m", "--films", "blank"], "no prediction to score"),
    ],
)
def test_wrong_use(prepare, jsonl, perfect, run, arguments, complaint):
    names = {"P": jsonl(perfect()), "D": prepare()}
    done = run(*(names.get(argument, argument) for argument in arguments))
    assert done.status == 2 and complaint in done.err, done.err


def test_unknown_metrics_are_refused(prepare, jsonl, perfect, run):
    done = run("--predictions", jsonl(perfect()), "--data", prepare(), "--model", "m", metrics="rouge_l,radgraf")
    assert done.status == 2 and "did you mean 'radgraph'?" in done.err
