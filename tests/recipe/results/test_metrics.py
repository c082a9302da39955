import json

from recipe.cxr_grpo.results.metrics import component_curves, read_metrics


def test_metrics_of_several_attempts_are_one_series(tmp_path):
    (tmp_path / "grpo.metrics.1.jsonl").write_text(
        '{"step": 1, "data": {"score": 0.1}}\n{"step": 2, "data": {"score": 0.2}}\n{"step": 3, "da'
    )
    (tmp_path / "grpo.metrics.2.jsonl").write_text(
        '{"step": 2, "data": {"score": 0.25}}\n{"step": 3, "data": {"score": 0.3}}\n'
    )
    assert read_metrics(tmp_path, "grpo") == {1: {"score": 0.1}, 2: {"score": 0.25}, 3: {"score": 0.3}}


def test_curves_are_what_the_trainer_logged_over_all_attempts(tmp_path):
    def line(step, **rewards):
        data = {"critic/score/mean": 1.0, "reward/report/score/mean": 0.5, "reward/report/answer_chars/mean": 80.0}
        for name, mean in rewards.items():
            data |= {f"reward/report/{name}/mean": mean, f"reward/report/{name}/floor_rate": 0.0}
        return json.dumps({"step": step, "data": data}) + "\n"

    (tmp_path / "grpo.metrics.1.jsonl").write_text(line(1, gleu=0.1) + line(2, gleu=0.2))
    (tmp_path / "grpo.metrics.2.jsonl").write_text(line(2, gleu=0.25) + line(3, gleu=0.3, rouge_l=0.4))
    assert component_curves(tmp_path) == {
        "report/gleu": {1: 0.1, 2: 0.25, 3: 0.3}, "report/rouge_l": {3: 0.4},
    }  # fmt: skip
