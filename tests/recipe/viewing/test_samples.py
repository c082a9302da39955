import json

import pytest
from viewed import TRUE_BOX, dumped, write_lines, write_results

from recipe.cxr_grpo.viewing import samples
from reward_fns.boxes import Box
from reward_fns.errors import UsageError
from reward_fns.rewards.box_f1 import box_f1
from reward_fns.rewards.box_soft_f1 import box_soft_f1


def read(*sources):
    return samples.read_sources(sources)[0]


def test_rollouts_of_a_prompt_are_a_group(tmp_path):
    rows = [dumped("a", "report", "x", score, uid=f"one_{i}_0") for i, score in enumerate((0.0, 0.5, 1.0))]
    rows += [dumped("a", "report", "x", 0.5, uid=f"two_{i}_0") for i in range(2)]
    write_lines(tmp_path / "run" / "rollouts" / "7.jsonl", rows)
    first, second = read(tmp_path / "run")
    assert (first["source"], first["part"], first["step"], first["lost"]) == ("run", "rollouts", 7, 0)
    assert [answer["score"] for answer in first["answers"]] == [0.0, 0.5, 1.0]
    assert second["lost"] == 1


def test_pairs_are_those_that_the_rewards_count():
    boxes = [(0.1, 0.1, 0.4, 0.4), (0.5, 0.5, 0.9, 0.9), (0.0, 0.8, 0.1, 0.9)]
    reference = [(0.5, 0.55, 0.9, 0.9), (0.2, 0.2, 0.5, 0.5), (0.7, 0.0, 0.8, 0.1)]
    pairs = samples.pairs_of(boxes, reference)
    assert [(i, j) for i, j, _ in pairs] == [(0, 1), (1, 0)]
    of = [tuple(Box(*quad) for quad in side) for side in (boxes, reference)]
    assert sum(iou for *_, iou in pairs) * 2 / 6 == pytest.approx(box_soft_f1(*of), abs=1e-4)
    assert sum(iou >= samples.HIT for *_, iou in pairs) * 2 / 6 == pytest.approx(box_f1(*of))


def test_boxes_are_read_from_the_answer_and_not_from_what_was_thought(tmp_path):
    output = f"<think>Perhaps [0.7, 0.7, 0.9, 0.9].</think> It is at {TRUE_BOX}."
    write_lines(tmp_path / "validation" / "1.jsonl", [dumped("a", "grounding", output, 1.0)])
    (answer,) = read(tmp_path)[0]["answers"]
    assert answer["boxes"] == [tuple(TRUE_BOX)]
    assert answer["pairs"] == [(0, 0, 1.0)]
    assert answer["thinking"] == "Perhaps [0.7, 0.7, 0.9, 0.9]."


def test_whole_samples_are_drawn_the_same_for_the_same_seed(tmp_path):
    for step in (0, 5):
        rows = [dumped(f"s{i:02}", "report", "x", 0.5) for i in range(50)]
        write_lines(tmp_path / "validation" / f"{step}.jsonl", rows)
    questions = read(tmp_path)
    drawn = samples.drawn(questions, 21, seed=1)
    ids = [question["id"] for question in drawn]
    assert len(drawn) == 20
    assert sorted(ids[:10]) == sorted(ids[10:])  # both steps of each
    assert [question["id"] for question in samples.drawn(questions, 21, seed=1)] == ids
    assert [question["id"] for question in samples.drawn(questions, 21, seed=2)] != ids
    assert samples.drawn(questions, 100, seed=1) == questions
    assert len(samples.drawn(questions, 1, seed=1)) == 2  # one sample at least, whole


def test_steps_come_in_the_order_of_numbers(tmp_path):
    for step in (10, 9, 100):
        write_lines(tmp_path / "rollouts" / f"{step}.jsonl", [dumped("a", "report", "x", 0.5)])
    assert [question["step"] for question in read(tmp_path)] == [9, 10, 100]
    assert [question["step"] for question in read(tmp_path / "rollouts" / "9.jsonl")] == [9]


def test_results_folders_below_a_folder(tmp_path):
    row = {
        "id": "a",
        "metrics": {"rouge_l": 0.25, "green": None},
        "thinking": "t",
        "answer": "Clear.",
        "image": "a.png",
    }
    boxes = {"prediction": [[0.0, 0.0, 0.5, 1.0]], "reference": [[0.0, 0.0, 1.0, 1.0]]}
    located = {"id": "b", "task": "grounding", "metrics": {"mean_iou": 0.5}, "boxes": boxes, "films": "swapped"}
    write_results(tmp_path / "m" / "set-report" / "own", [row | {"prediction": None, "status": "missing"}])
    write_results(
        tmp_path / "m" / "set-grounding" / "swapped", [located], higher_is_better={"x": True, "radcliq": False}
    )
    found, lower = samples.read_sources([tmp_path])
    assert lower == {"radcliq"}
    by_id = {question["id"]: question for question in found}
    assert by_id["a"]["source"] == "m/set-report"
    assert by_id["a"]["image"] == "a.png"
    assert by_id["a"]["answers"][0]["model_failed"]
    assert by_id["a"]["answers"][0]["score"] == 0.25
    assert by_id["b"]["films"] == "swapped"
    assert by_id["b"]["answers"][0]["pairs"] == [(0, 0, 0.5)]


def test_runs_of_the_same_name_stay_apart(tmp_path):
    for folder in ("one", "two"):
        write_lines(tmp_path / folder / "run" / "rollouts" / "1.jsonl", [dumped("a", "report", "x", 0.5)])
    sources = [tmp_path / folder / "run" for folder in ("one", "two")]
    assert [question["source"] for question in read(*sources)] == [str(source) for source in sources]


def test_what_is_not_there_or_can_not_be_read_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"nothing to look at; give a run with rollouts/STEP\.jsonl"):
        read(tmp_path)
    write_lines(tmp_path / "scores.jsonl", [{"id": "a"}])
    with pytest.raises(ValueError, match=r"scores\.jsonl, line 1: not a row of a results folder \(KeyError"):
        read(tmp_path)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999", "1" + "0" * 400])
def test_a_number_that_no_page_can_show_is_a_missing_one(tmp_path, value):
    rows = [dumped("a", "report", "x", 0.5, gleu=0.5), dumped("b", "report", "x", 0.5, gleu="VALUE")]
    path = write_lines(tmp_path / "validation" / "1.jsonl", rows)
    path.write_text(path.read_text().replace('"VALUE"', value))
    assert json.loads(path.read_text().splitlines()[1])["gleu"] != 0.5
    assert [question["answers"][0]["values"]["gleu"] for question in read(tmp_path)] == [0.5, None]
