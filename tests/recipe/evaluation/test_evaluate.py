"""What comes out: every sample in every denominator, groups, hashes, the same bytes again, costless answers."""

import hashlib
import json

import pytest

from reward_fns.rewards.box_f1 import box_f1
from reward_fns.rewards.rouge_l import rouge_l

HOSTILE = [
    "\ud800 lone surrogate", "</script><script>alert(1)</script>", "\u2028\u2029\x00\x07", "[nan, inf, -1, 2]",
    "[" * 20_000, '{"bbox_2d": [1e999, 0, 1, 1]', "<think>" * 3, "[0.1, 0.2, 0.3, 0.4] " * 3_000,
    "NaN", "\N{ARABIC-INDIC DIGIT ONE}" * 50, "[0.1.2, 0, 1, 1]", "../../etc/passwd",
]  # fmt: skip


def test_failed_and_missing_answers_count_with_the_floor(prepare, jsonl, perfect, run):
    rows = [row for row in perfect() if row["id"] not in ("n1", "r1")]  # missing
    for row in rows:
        row["prediction"] = {"n2": None, "n3": "I cannot help with that.", "r2": "  ", "o0": ""}.get(
            row["id"], row["prediction"]
        )
    done = run("--predictions", jsonl(rows), "--data", prepare(), "--model", "m")
    assert done.status == 0, done.err
    results, scores = done.read("m/mine-grounding/own")
    assert {name: row["status"] for name, row in scores.items() if row["status"] != "ok"} == {
        "n1": "missing", "n2": "missing", "n3": "failed", "o0": "failed",
    }  # fmt: skip
    assert (results["samples"], results["failed"], results["missing"]) == (8, 2, 2)
    for name in ("n1", "n2", "n3"):
        assert set(scores[name]["metrics"].values()) == {0.0}
    # No box was to be found in o0: no answer is no statement that there is nothing.
    assert scores["o0"]["metrics"]["acc_50"] is None
    assert {v for k, v in scores["o0"]["metrics"].items() if k != "acc_50"} == {0.0}
    assert results["metrics"]["f1_50"] == 4 / 8 and results["metrics"]["acc_50"] == 1 / 4
    assert results["metrics"]["ap50_paper"] == 3 / 8
    results, scores = done.read("m/mine-report/own")
    assert (results["samples"], results["failed"], results["missing"]) == (4, 1, 1)
    assert results["metrics"]["rouge_l"] == 2 / 4
    assert scores["r1"]["prediction"] is None and scores["r1"]["metrics"] == {"answer_chars": 0.0, "rouge_l": 0.0}
    assert [*scores] == ["r0", "r1", "r2", "r3"]  # the order of the data


def test_how_generate_decoded_is_in_the_results(prepare, jsonl, perfect, run, tmp_path):
    predictions, data = jsonl(perfect()), prepare()
    assert (
        run("--predictions", predictions, "--data", data, "--model", "m").read("m/mine-report/own")[0]["decoding"]
        is None
    )
    settings = {"temperature": 0.6, "max_tokens": 1024, "tries": 64, "seed": 3, "weights": "a/b", "data": {}}
    (tmp_path / "generation.json").write_text(json.dumps(settings))
    results = run("--predictions", predictions, "--data", data, "--model", "m").read("m/mine-report/own")[0]
    assert results["decoding"].items() >= {"temperature": 0.6, "max_tokens": 1024, "tries": 64, "seed": 3}.items()


def test_thinking_answers_begin_after_the_thoughts(prepare, jsonl, run):
    rows = [
        {"id": "r0", "prediction": "<think>no effusion?</think> The heart is enlarged."},
        {"id": "r1", "prediction": "Lungs are clear."},
        {"id": "n0", "prediction": "[0.5, 0.5, 0.6, 0.6]? </think> no: </think>[0.1, 0.2, 0.3, 0.4]"},
        {"id": "n1", "prediction": "[0.1, 0.2, 0.3, 0.4]"},
    ]
    predictions = jsonl(rows)
    told = run("--predictions", predictions, "--data", prepare(), "--model", "m", "--thinking")
    asked = run("--predictions", predictions, "--data", prepare("asked", thinking=True), "--model", "m")
    both = run("--predictions", predictions, "--data", prepare("both", thinking=True), "--model", "m", "--thinking")
    for done, name in ((told, "mine"), (asked, "asked"), (both, "both")):
        assert done.status == 0, done.err
        results, scores = done.read(f"m/{name}-report/own")
        assert results["thinking"] is True
        assert scores["r0"]["answer"] == "The heart is enlarged." and scores["r0"]["thinking"] == "no effusion?"
        assert scores["r0"]["metrics"]["rouge_l"] == rouge_l("The heart is enlarged.", scores["r0"]["reference"])
        assert scores["r1"]["status"] == "failed" and scores["r1"]["thinking"] == "Lungs are clear."
        scores = done.read(f"m/{name}-grounding/own")[1]
        assert scores["n0"]["metrics"]["ap50_paper"] == scores["n0"]["metrics"]["acc_50"] == 1.0
        assert scores["n1"]["status"] == "failed" and scores["n1"]["metrics"]["ap50_paper"] == 0.0
    # Where nobody asked for thoughts, an answer without them is one; thoughts are never part of one.
    plain = run("--predictions", predictions, "--data", prepare(), "--model", "m").read("m/mine-report/own")
    assert plain[0]["thinking"] is False and plain[1]["r1"]["status"] == "ok"
    assert plain[1]["r0"]["answer"] == "The heart is enlarged."


def test_results_by_label_and_number_of_boxes(prepare, jsonl, perfect, run):
    rows = [row | ({"prediction": "[0.5, 0.5, 0.9, 0.9]"} if row["id"] == "o1" else {}) for row in perfect()]
    results, scores = run("--predictions", jsonl(rows), "--data", prepare(), "--model", "m").read(
        "m/mine-grounding/own"
    )
    by_boxes = results["groups"]["n_boxes"]
    assert {key: group["samples"] for key, group in by_boxes.items()} == {"0": 2, "1": 4, "2": 2}
    assert by_boxes["0"]["map50_coco"] is None and by_boxes["0"]["f1_50"] == 1.0
    assert by_boxes["2"]["ap50_paper"] == (0.5 + 1.0) / 2
    labels = results["groups"]["label"]
    assert {key: group["samples"] for key, group in labels.items()} == {"nodule": 4, "opacity": 2}
    assert labels["nodule"]["map_coco"] == 1.0 and labels["opacity"]["map50_coco"] < 1.0
    assert scores["o1"]["labels"] == ["opacity"] and scores["o0"]["labels"] == [] and scores["o1"]["n_boxes"] == 2
    assert labels["opacity"]["f1_50"] == (1.0 + 2 / 3) / 2


def test_the_same_inputs_give_the_same_bytes_and_hashes_fit(prepare, jsonl, perfect, run):
    predictions, data = jsonl([row | {"finish_reason": "stop"} for row in perfect()]), prepare()
    command = ("--predictions", predictions, "--data", data, "--model", "m", "--seed", "7")
    done = run(*command)
    folder = done.folder / "m/mine-report-seed7/own"
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert run(*command).status == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first
    results = json.loads(first["results.json"])
    for part in ("predictions", "scores"):
        assert results["hashes"][part] == hashlib.sha256(first[f"{part}.jsonl"]).hexdigest()
    assert json.loads(first["predictions.jsonl"].splitlines()[0]) == {
        "films": "own", "id": "r0", "prediction": perfect()[0]["prediction"], "finish_reason": "stop",
    }  # fmt: skip
    assert results["seed"] == 7 and results["higher_is_better"] == {"answer_chars": None, "rouge_l": True}
    assert str(predictions) in results["command"] and results["versions"]["pycocotools"]
    # Another gold is other data, though predictions are the same.
    again = run("--predictions", predictions, "--data", prepare(reports=["Clear."]), "--model", "m", out="other")
    assert again.read("m/mine-report/own")[0]["hashes"]["data"] != results["hashes"]["data"]


def test_a_failed_run_leaves_earlier_results(prepare, jsonl, perfect, run, monkeypatch):
    predictions, data = jsonl(perfect()), prepare()
    done = run("--predictions", predictions, "--data", data, "--model", "m")
    before = (done.folder / "m/mine-report/own/results.json").read_bytes()
    monkeypatch.setattr("pathlib.Path.write_text", lambda *_, **__: (_ for _ in ()).throw(OSError("no space left")))
    assert run("--predictions", predictions, "--data", data, "--model", "m").status == 1
    assert [path.name for path in (done.folder / "m/mine-report").iterdir()] == ["own"]
    assert (done.folder / "m/mine-report/own/results.json").read_bytes() == before


def test_hostile_texts(prepare, jsonl, run):
    rows = [
        {"id": f"{kind}{number}", "prediction": text} for number, text in enumerate(HOSTILE) for kind in ("r", "n", "o")
    ]
    done = run(
        "--predictions", jsonl(rows), "--data", prepare(patients=len(HOSTILE)), "--model", "m", metrics="rouge_l,bleu"
    )
    assert done.status == 0, done.err
    for task in ("report", "grounding"):
        results, scores = done.read(f"m/mine-{task}/own")
        assert results["samples"] == len(scores)
        assert scores["r0" if task == "report" else "n0"]["prediction"] == HOSTILE[0]
        for name, value in results["metrics"].items():
            assert value is None or name == "answer_chars" or 0.0 <= value <= 1.0


def test_answers_that_cost_nothing(prepare, jsonl, perfect, run):
    data, train = prepare(), prepare(patients=6, first=10)
    command = ("--costless", "--data", data, "--train", train, "--predictions", jsonl(perfect()), "--model", "m")
    done = run(*command)
    assert done.status == 0, done.err
    assert {str(path.relative_to(done.folder)) for path in done.folder.glob("*/*/own")} == {
        "m/mine-report/own", "m/mine-grounding/own", "all-normal/mine-report/own", "all-normal/mine-grounding/own",
        "class-mean-box/mine-grounding/own", "another-patients-report/mine-report/own",
    }  # fmt: skip
    results, _ = done.read("all-normal/mine-grounding/own")
    assert results["metrics"]["f1_50"] == 2 / 8 and results["failed"] == 0  # right where there is nothing
    means = done.read("class-mean-box/mine-grounding/own")[1]
    assert means["n0"]["prediction"] == "[0.1, 0.2, 0.3, 0.4]" and means["n0"]["metrics"]["acc_50"] == 1.0
    # The mean of two boxes on either side, for whoever has an opacity and whoever has none.
    assert means["o1"]["prediction"] == means["o0"]["prediction"] == "[0.3, 0.5, 0.65, 0.9]"
    drawn = {name: row["prediction"] for name, row in done.read("another-patients-report/mine-report/own")[1].items()}
    assert set(drawn.values()) <= {row["prediction"] for row in perfect() if row["id"].startswith("r")}
    assert done.read("another-patients-report/mine-report/own")[0]["seed"] is None
    draws = []
    for seed in range(4):  # each seed of a model may have data of its own
        one = run(*command, "--seed", str(seed), out=f"s{seed}").read(
            f"another-patients-report/mine-report-seed{seed}/own"
        )
        draws.append({name: row["prediction"] for name, row in one[1].items()})
    assert draws[0] == drawn and any(draw != drawn for draw in draws)


def test_costless_answers_need_others_to_learn_from(prepare, run):
    data = prepare(patients=1)
    done = run("--costless", "--data", data, "--train", data)
    assert done.status == 2 and "--train has no report samples of other patients, which 'r0' needs" in done.err


@pytest.mark.parametrize("box_format", ["radvlm", "qwen3vl", "qwen25vl", "pixel"])
def test_every_box_convention_scores_alike(prepare, run, box_format):
    """The mean box of the class, as each convention writes it, is the gold of the nodules."""
    data = prepare(box_format=box_format)
    done = run("--costless", "--data", data, "--train", data)
    scores = done.read("class-mean-box/mine-grounding/own")[1]
    for number in range(4):
        metrics = scores[f"n{number}"]["metrics"]
        assert metrics["ap50_paper"] == metrics["f1_50"] == metrics["acc_50"] == 1.0
        assert metrics["mean_iou"] > 0.8


def test_per_sample_values_are_the_rewards(prepare, jsonl, run):
    rows = [{"id": "o1", "prediction": "[0.5, 0.5, 0.9, 0.8], [0.9, 0.1, 0.2, 0.3]"}]
    scores = run("--predictions", jsonl(rows), "--data", prepare(), "--model", "m").read("m/mine-grounding/own")[1]
    assert scores["o1"]["counts"] == {"invalid_boxes": 1}
    assert scores["o1"]["metrics"]["f1_50"] == pytest.approx(2 * 1 / (2 + 2))  # the invalid box counts as false
    assert box_f1((), ()) == 1.0 and scores["o1"]["boxes"]["prediction"] == [[0.5, 0.5, 0.9, 0.8]]
