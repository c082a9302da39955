import json
import math

import pytest

pytest.importorskip("verl")


def test_a_dump_of_a_validation_is_json(step):
    step.trainer._init_dump_executor()
    step.trainer._dump_generations(
        inputs=["q"], outputs=["a"], gts=["{}"], scores=[0.5], dump_path=str(step.out),
        reward_extra_infos_dict={"gleu": [0.5], "box_iou": [math.nan]},
    )  # fmt: skip
    step.trainer._shutdown_dump_executor()
    assert '"gleu": 0.5, "box_iou": null}' in (step.out / "7.jsonl").read_text()


def test_the_dump_has_every_component_and_no_padding(step):
    step.trainer._init_dump_executor()
    step.trainer._dump_rollouts(step.batch, str(step.out))
    step.trainer._shutdown_dump_executor()

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    rows = [json.loads(line, parse_constant=refuse) for line in (step.out / "7.jsonl").read_text().splitlines()]
    assert [row["uid"] for row in rows] == ["a_0_0", "a_1_0", "b_1_0"]
    assert [row["gleu"] for row in rows] == [0.25, 0.5, None]
    assert rows[2] | {"input": "", "gts": ""} == {
        "input": "", "output": "3 4 5", "gts": "", "score": 0.75, "step": 7, "uid": "b_1_0", "id": "grounding-1",
        "task": "grounding", "acc": 0.75, "gleu": None, "box_iou": 0.75, "answer_chars": 9.0,
    }  # fmt: skip


def test_a_checkpoint_is_written_after_the_rollouts_of_its_step(step, monkeypatch):
    from verl.trainer.ppo.v1 import PPOTrainer

    def save(self):
        assert len((step.out / "rollouts" / "7.jsonl").read_text().splitlines()) == 3
        (self.folder / "global_step_7").mkdir()

    monkeypatch.setattr(PPOTrainer, "step", lambda self, metrics, timing_raw: step.batch)
    monkeypatch.setattr(PPOTrainer, "_save_checkpoint", save)
    step.trainer.config.trainer.rollout_data_dir = str(step.out / "rollouts")
    step.trainer.config.actor_rollout_ref.actor = {}
    step.trainer._init_dump_executor()
    assert step.trainer.step({}, {}) is step.batch
    step.trainer._save_checkpoint()
    assert (step.out / "global_step_7" / "manifest.json").exists()
    (step.out / "rollouts" / "7.jsonl").unlink()
    step.trainer._log_rollout_data(step.batch, {}, str(step.out / "rollouts"))
    step.trainer._shutdown_dump_executor()
    assert list((step.out / "rollouts").iterdir()) == []  # verl's own call, after the checkpoint, repeats nothing
