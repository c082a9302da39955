"""A trainer of ours in front of one batch, without verl's workers and queue."""

import math
from types import SimpleNamespace

import pytest


@pytest.fixture(scope="module")
def trainers():
    import verl.trainer.ppo.v1  # noqa: F401

    import recipe.cxr_grpo.plugin.trainers

    return recipe.cxr_grpo.plugin.trainers


class Queue:
    """verl's TransferQueue as far as the trainer uses it: rows under their keys."""

    def __init__(self, rows):
        self.rows = rows

    def kv_batch_get(self, keys, partition_id, select_fields):
        from verl.utils.tensordict_utils import list_of_dict_to_tensordict

        assert partition_id == "train"
        return list_of_dict_to_tensordict([{field: self.rows[key][field] for field in select_fields} for key in keys])

    def kv_batch_put(self, keys, partition_id, fields):
        for i, key in enumerate(keys):
            self.rows[key].update({name: fields[name][i] for name in fields.keys()})  # noqa: SIM118


class Worker:
    """A handle of a reward worker, whose rewards have fared as given."""

    def __init__(self, **fared):
        self.fared = fared
        self.__ray_call__ = SimpleNamespace(remote=lambda function: dict(self.fared))


@pytest.fixture
def step(trainers, monkeypatch, tmp_path):
    """A `cxr_sync` trainer in front of a batch: group "a" is whole, "b" has one left, one padding row stands in."""
    import torch
    from omegaconf import OmegaConf
    from verl.trainer.ppo.v1 import PPOTrainer, get_trainer_cls

    from recipe.cxr_grpo.plugin.failure_rates import FailureRates
    from recipe.cxr_grpo.plugin.monitor import Monitor
    from recipe.cxr_grpo.plugin.time_limit import TimeLimit
    from reward_fns.calling import Counts
    from reward_fns.spec import resolve

    spec = {"report": [{"name": "gleu"}], "grounding": [{"name": "box_iou"}]}

    def row(task, score, **components):
        values = {"score": score, "acc": score, "gleu": math.nan, "box_iou": math.nan, "answer_chars": 9.0}
        return {
            "prompts": torch.tensor([1, 2]), "responses": torch.tensor([3, 4, 5]),
            "rm_scores": torch.tensor([0.0, 0.0, score]),
            "advantages": torch.full((3,), score), "returns": torch.full((3,), score),
            "reward_model": {"ground_truth": "{}"}, "data_source": f"demo/{task}",
            "extra_info": {"id": f"{task}-1", "task": task},
            "extra_fields": {"reward_extra_info": values | components},
        }  # fmt: skip

    rows = {
        "b_1_0": row("grounding", 0.75, box_iou=0.75),
        "a_1_0": row("report", 0.5, gleu=0.5),
        "a_0_0": row("report", 0.25, gleu=0.25),
        "pad0_0_0": row("grounding", 0.0, box_iou=0.75),
    }
    monkeypatch.setattr(trainers, "tq", Queue(rows))
    trainer = object.__new__(get_trainer_cls("cxr_sync"))
    trainer.config = OmegaConf.create(
        {"data": {"train_batch_size": 2}, "actor_rollout_ref": {"rollout": {"n": 2}}, "trainer": {}}
    )
    trainer.tokenizer = SimpleNamespace(decode=lambda ids, **_: " ".join(str(int(i)) for i in ids))
    trainer.spec, trainer.use_critic, trainer.global_steps = resolve(spec), False, 7
    trainer.logged, trainer.rollouts_per_step, trainer.folder = {}, 4, tmp_path
    trainer.rates, trainer.monitor = FailureRates(trainer.spec, 4), Monitor(tmp_path, lambda now: None)
    trainer.limit = TimeLimit(tmp_path, math.inf)
    monkeypatch.setattr(PPOTrainer, "on_step_begin", lambda self: None)
    monkeypatch.setattr(trainers.ray, "get", lambda results: results)
    workers = [Worker(gleu=Counts(9, retries=1)), Worker(gleu=Counts(9, failures=2), box_iou=Counts(4))]
    trainer.reward_loop_manager = SimpleNamespace(reward_loop_workers=workers)
    batch = SimpleNamespace(
        keys=list(rows), tags=[{"is_padding": key.startswith("pad")} for key in rows], partition_id="train"
    )
    return SimpleNamespace(trainer=trainer, batch=batch, rows=rows, out=tmp_path, workers=workers)
