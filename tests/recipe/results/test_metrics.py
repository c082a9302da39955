import json

import pytest

from recipe.cxr_grpo.results.metrics import prompt_curves, read_metrics, scoring, validation_points


def test_metrics_of_several_attempts_are_one_series(tmp_path):
    (tmp_path / "grpo.metrics.1.jsonl").write_text(
        '{"step": 1, "data": {"score": 0.1}}\n{"step": 2, "data": {"score": 0.2}}\n{"step": 3, "da'
    )
    (tmp_path / "grpo.metrics.2.jsonl").write_text(
        '{"step": 2, "data": {"score": 0.25}}\n{"step": 3, "data": {"score": 0.3}}\n'
    )
    assert read_metrics(tmp_path, "grpo") == {1: {"score": 0.1}, 2: {"score": 0.25}, 3: {"score": 0.3}}


def test_curves_are_means_over_prompts_of_a_window_of_steps(tmp_path):
    def logged(step):
        data = {f"reward/report/gleu/{key}": 0.0 for key in ("mean", "floor_rate")}
        data |= {"critic/score/mean": 1.0, "reward/report/answer_chars/mean": 80.0}
        return json.dumps({"step": step, "data": data}) + "\n"

    (tmp_path / "grpo.metrics.1.jsonl").write_text("".join(map(logged, range(1, 8))))
    (tmp_path / "rollouts").mkdir()
    for step in range(1, 8):
        rows = [
            {"step": step, "id": prompt, "task": "report", "gleu": value}
            for prompt, values in (("a", [0.0, 0.2]), ("b", [0.4, 0.4])) for value in values
        ]  # fmt: skip
        rows += [{"step": step, "id": "g", "task": "grounding", "gleu": None}]
        rows += [{"step": step, "id": "c", "task": "report", "gleu": None}]  # a reward of weight 0 that failed
        (tmp_path / "rollouts" / f"{step}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    curves = prompt_curves(tmp_path)
    assert [*curves] == ["report/gleu"]
    assert [*curves["report/gleu"]] == [3.0, 6.5]
    first, second = curves["report/gleu"].values()
    assert (first.mean, first.n, second.n) == (pytest.approx(0.25), 10, 4)
    assert 0.1 <= first.ci95[0] < 0.25 < first.ci95[1] <= 0.4


def test_the_points_of_validations_are_those_on_patients_own_films(tmp_path):
    data = {"val-aux/my/set/report/gleu/mean@1": 0.25, "val-aux/my/set/films_swapped/report/gleu/mean@1": 0.125}
    data |= {"val-aux/my/set/report/gleu/std@1": 0.5, "critic/score/mean": 1.0}
    lines = [json.dumps({"step": 0, "data": data}), json.dumps({"step": 1, "data": {"critic/score/mean": 1.0}})]
    (tmp_path / "grpo.metrics.1.jsonl").write_text("\n".join(lines))
    assert validation_points(read_metrics(tmp_path, "grpo")) == {"report/gleu": {0: 0.25}}


def test_how_much_of_a_run_was_scored_and_why_not(tmp_path):
    steps = {
        0: {"reward/validation/rollouts": 40, "reward/validation/failed_rollouts": 1},
        1: {"reward/report/rollouts": 6, "reward/grounding/rollouts": 8, "reward/failed_rollouts": 2},
        2: {"reward/report/rollouts": 8, "reward/grounding/rollouts": 8, "reward/failed_rollouts": 0},
    }
    lines = (json.dumps({"step": step, "data": data}) + "\n" for step, data in steps.items())
    (tmp_path / "grpo.metrics.1.jsonl").write_text("".join(lines))
    first = {"step": 1, "part": "train", "rollouts": 16, "unscored": 9, "rewards": {}}
    again = first | {"unscored": 2, "rewards": {"gleu": {"samples": 8, "failures": 2, "causes": {"down": 2}}}}
    before = {"step": 0, "part": "validation", "rollouts": 40, "unscored": 1}
    before |= {"rewards": {"gleu": {"samples": 20, "failures": 1, "causes": {"nan": 1}}}}
    rows = [json.dumps(row) for row in (before, first, again)]  # step 1 again after a restart
    (tmp_path / "failures.jsonl").write_text("\n".join(rows) + '\n{"step": 2, "pa')
    assert scoring(tmp_path, tmp_path) == {
        "train": {"rollouts": 32, "unscored": 2},
        "validation": {"rollouts": 40, "unscored": 1},
        "causes": {"gleu": {"nan": 1, "down": 2}},
    }


def test_a_run_without_failures_has_no_causes(tmp_path):
    assert scoring(tmp_path, tmp_path)["causes"] == {}
