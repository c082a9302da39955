import json
import math
import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

pytest.importorskip("verl")

from omegaconf import OmegaConf

from recipe.cxr_grpo.plugin.failure_rates import FailureRates
from recipe.cxr_grpo.plugin.monitor import RunStopped
from recipe.cxr_grpo.results.metrics import FAILURES
from reward_fns.calling import Counts
from reward_fns.errors import UsageError
from reward_fns.spec import resolve

SPEC = {"report": [{"name": "gleu"}], "grounding": [{"name": "box_iou"}]}


def test_the_statistics_join_verls_metrics(step, monkeypatch):
    base = type(step.trainer).__mro__[2]
    monkeypatch.setattr(base, "_compute_metrics", lambda self, batch, metrics, *_, **__: metrics.update(verls=1))
    step.trainer._compute_metrics(step.batch, {}, {}, global_steps=6, epoch=0)
    metrics = {}
    step.workers[0].fared["gleu"] = Counts(12, retries=4, failures=3, causes={"down": 3})
    step.trainer._compute_metrics(step.batch, metrics, {}, global_steps=7, epoch=0)
    assert metrics["verls"] == 1
    assert metrics["reward/report/gleu/mean"] == 0.375
    assert metrics["reward/grounding/rollouts"] == 1
    assert (metrics["reward/failed_rollouts"], metrics["reward/failed_groups"]) == (1, 1)
    fared = {key: metrics[f"reward/scorers/{key}"] for key in ("gleu/failures", "gleu/retries", "box_iou/failures")}
    assert fared == {"gleu/failures": 3, "gleu/retries": 3, "box_iou/failures": 0}


GONE = Counts(20, failures=20, given_up="given up after 20 failures in a row")


def test_a_reward_that_one_worker_has_given_up_ends_the_run(step):
    step.workers[1].fared["gleu"] = GONE
    with pytest.raises(RunStopped, match="reward 'gleu': given up after 20 failures in a row"):
        step.trainer.on_step_begin()


def test_a_given_up_reward_of_weight_0_does_not_end_the_run(step):
    spec = resolve({"report": [{"name": "gleu", "weight": 0}, {"name": "rouge_l"}]})
    step.trainer.rates = FailureRates(spec, 4)
    step.workers[1].fared["gleu"] = GONE
    step.trainer.on_step_begin()


def test_what_failed_in_a_step_is_written_with_its_causes(step, monkeypatch):
    base = type(step.trainer).__mro__[2]
    monkeypatch.setattr(base, "_compute_metrics", lambda *_, **__: None)
    step.workers[0].fared["gleu"] = Counts(12, retries=4, failures=3, causes={"down": 3})
    step.trainer._compute_metrics(step.batch, {}, {}, global_steps=7, epoch=0)
    (row,) = map(json.loads, (step.out / FAILURES).read_text().splitlines())
    gleu = {"samples": 21, "failures": 5, "causes": {"down": 3}}
    assert row == {"step": 7, "part": "train", "rollouts": 4, "unscored": 1, "rewards": {"gleu": gleu}}


def test_too_many_failures_over_the_steps_end_the_run_at_the_next_step(step, monkeypatch):
    base = type(step.trainer).__mro__[2]
    monkeypatch.setattr(base, "_compute_metrics", lambda *_, **__: None)
    step.workers[1].fared["gleu"] = Counts(9)
    for number in (1, 2, 3):  # one of four rollouts is lost in each
        step.trainer.on_step_begin()
        step.trainer._compute_metrics(step.batch, {}, {}, global_steps=number, epoch=0)
    with pytest.raises(RunStopped, match=r"no reward for 3 of 12 rollouts in the last 3 steps \(25%\)"):
        step.trainer.on_step_begin()


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_run_before_its_weights_are_saved(step, monkeypatch, loss):
    base = type(step.trainer).__mro__[2]
    monkeypatch.setattr(base, "_update_actor", lambda self, batch, metrics: metrics.update({"actor/pg_loss": loss}))
    with pytest.raises(RunStopped, match=rf"actor/pg_loss is {loss} in step 7: the weights are or would become NaN"):
        step.trainer._update_actor(step.batch, {})
    monkeypatch.setattr(base, "_update_actor", lambda self, batch, metrics: metrics.update({"actor/pg_loss": 0.5}))
    step.trainer._update_actor(step.batch, {})


def validated(step, scored, expected, spec=SPEC, **rules):
    """The metrics of a validation: (data source, uid, values) of scored rollouts, and the number asked for."""
    step.trainer.spec = resolve({**spec, "failures": rules})
    step.trainer.rates = FailureRates(step.trainer.spec, 4)
    step.trainer.on_validate_begin()
    values = {key: [row[2].get(key) for row in scored] for key in dict.fromkeys(k for row in scored for k in row[2])}
    step.workers[0].fared["gleu"] = Counts(12, retries=4, failures=3, causes={"down": 3})
    return step.trainer._val_metrics_update(
        [row[0] for row in scored], [row[1] for row in scored], values, [1] * len(scored), expected_acc_counts=expected
    )


FAILED = [("a/report", "p1", {"reward": -0.5, "acc": -0.5, "overlong": -0.5})]
ASKED = {("a/report", "p1"): 1, ("a/report", "p2"): 1, ("b/report", "p3"): 2}


def test_failed_rollouts_of_a_validation_are_left_out_of_its_means_and_counted(step):
    metrics = validated(step, FAILED, ASKED, {"report": [{"name": "overlong"}]}, max_rate=0.8)
    assert metrics["val-core/a/report/acc/mean@1"] == -0.5  # verl: -0.25
    assert metrics["val-aux/a/report/reward/mean@1"] == -0.5
    assert not [key for key in metrics if key.startswith("val-core/b/")]
    assert (metrics["reward/validation/failed_rollouts"], metrics["reward/validation/rollouts"]) == (3, 4)
    assert metrics["val-aux/a/report/failed_rollouts"] == 1 and metrics["val-aux/b/report/failed_rollouts"] == 2


def test_a_validation_with_too_many_failures_ends_the_run(step):
    with pytest.raises(RunStopped, match=r"no reward for 3 of 4 rollouts of a validation \(75%\).* gleu 3 \(down\)"):
        validated(step, FAILED, ASKED)
    assert json.loads((step.out / FAILURES).read_text())["part"] == "validation"


def test_without_failures_a_validation_has_verls_numbers(step):
    values = ({"acc": 0.25, "n": 2.0}, {"acc": 0.75, "n": 4.0}, {"acc": 0.5, "n": 9.0}, {"acc": 0.5, "n": 0.0})
    scored = [("a/report", "p", row) for row in values]
    expected = {("a/report", "p"): 4}
    ours = validated(step, scored, expected)
    columns = [row[0] for row in scored], [row[1] for row in scored], {k: [v[k] for v in values] for k in values[0]}
    verls = type(step.trainer).__mro__[2]
    theirs = verls._val_metrics_update(step.trainer, *columns, [1] * 4)
    assert {key: value for key, value in ours.items() if key in theirs} == theirs
    assert {key for key in ours if key not in theirs and "/validation/" not in key} == {
        "val-aux/a/report/failed_rollouts"
    }


def test_scorer_failures_of_a_validation_are_its_own(step, monkeypatch):
    base = type(step.trainer).__mro__[2]
    monkeypatch.setattr(base, "_compute_metrics", lambda *_, **__: None)
    metrics = validated(step, [("a/report", "p", {"acc": 1.0})], {("a/report", "p"): 1})
    assert metrics["reward/validation/scorers/gleu/failures"] == 3
    assert metrics["reward/validation/scorers/gleu/retries"] == 3
    training = {}
    step.trainer._compute_metrics(step.batch, training, {}, global_steps=7, epoch=0)
    # Those from before the validation began.
    assert (training["reward/scorers/gleu/failures"], training["reward/scorers/gleu/retries"]) == (2, 1)


@pytest.mark.parametrize("n", [1, 4])
def test_a_data_source_with_both_tasks_has_finite_metrics(step, n):
    report = {"acc": 0.5, "score": 0.5, "gleu": 0.5, "box_iou": math.nan}
    boxes = {"acc": 0.25, "score": 0.25, "gleu": math.nan, "box_iou": 0.25}
    scored = [("mixed", "p1", report)] * n + [("mixed", "p2", boxes)] * n + [("a/report", "p3", report)] * n
    metrics = validated(step, scored, {("mixed", "p1"): n, ("mixed", "p2"): n, ("a/report", "p3"): n})
    assert [key for key, value in metrics.items() if not math.isfinite(value)] == []
    assert metrics[f"val-aux/mixed/gleu/mean@{n}"] == 0.5 and metrics[f"val-aux/mixed/box_iou/mean@{n}"] == 0.25
    assert metrics[f"val-core/mixed/acc/mean@{n}"] == 0.375
    assert not [key for key in metrics if key.startswith("val-aux/a/report/box_iou")]


@pytest.mark.parametrize("dies", [True, False])
def test_an_error_of_verl_s_is_told_from_the_death_that_led_to_it(step, monkeypatch, dies):
    from verl.trainer.ppo.v1 import PPOTrainer

    from recipe.cxr_grpo.plugin import monitor

    def fit(self, agent_loop_manager):
        if dies:
            threading.Timer(0.1, self.monitor.stop, ["the vLLM engine died"]).start()
        raise RuntimeError("no trajectories")

    monkeypatch.setattr(monitor, "POLL_SECONDS", 5.0 if dies else 0.1)
    monkeypatch.setattr(PPOTrainer, "fit", fit)
    monkeypatch.setattr(type(step.trainer), "_try_rewards", lambda self: None)
    with pytest.raises(RunStopped if dies else RuntimeError, match="engine died" if dies else "no trajectories"):
        step.trainer.fit(SimpleNamespace(agent_loop_workers=[]))
    assert step.trainer.monitor.done.is_set() != dies


@pytest.mark.parametrize(("n", "use_critic", "left"), [(2, False, 0.0), (1, False, 0.75), (2, True, 0.75)])
def test_a_lone_survivor_of_a_group_gives_no_gradient(step, monkeypatch, n, use_critic, left):
    base = type(step.trainer).__mro__[2]
    monkeypatch.setattr(base, "_compute_advantage", lambda self, batch, metrics: batch)
    step.trainer.use_critic, step.trainer.config.actor_rollout_ref.rollout.n = use_critic, n
    assert step.trainer._compute_advantage(step.batch, {}) is step.batch
    assert step.rows["b_1_0"]["advantages"].tolist() == [left] * 3
    assert step.rows["b_1_0"]["returns"].tolist() == [left] * 3
    assert step.rows["a_1_0"]["advantages"].tolist() == [0.5] * 3


def test_verl_still_has_what_is_overridden_and_called(trainers):
    from verl.trainer.ppo.v1 import PPOTrainer
    from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

    overridden = {
        "fit", "on_init_end", "on_step_begin", "on_step_end", "on_sample_begin", "on_sample_end", "on_validate_begin",
        "on_validate_end", "_update_actor", "_save_checkpoint", "_compute_metrics", "_val_metrics_update",
        "_dump_generations", "_log_rollout_data", "_compute_advantage", "step",
    }  # fmt: skip
    assert overridden <= set(vars(trainers.ComponentLogs))
    assert overridden <= set(vars(PPOTrainer)) and "_rollout_server_managers" in vars(PPOTrainer)
    assert "_wait_for_next_poll" in vars(ReplayBuffer)


def test_every_mode_of_verl_has_a_trainer_that_then_runs_as_that_mode(trainers, monkeypatch, tmp_path):
    from verl.trainer.ppo.v1 import PPOTrainer, get_trainer_cls

    seen = []
    monkeypatch.setattr(PPOTrainer, "__init__", lambda self, config: seen.append(config.trainer.v1.trainer_mode))
    for mode in ("sync", "colocate_async"):
        config = OmegaConf.create(
            {
                "trainer": {"v1": {"trainer_mode": f"cxr_{mode}"}, "default_local_dir": str(tmp_path)},
                "data": {"train_batch_size": 2},
                "actor_rollout_ref": {"rollout": {"n": 2}},
                "reward": {
                    "custom_reward_function": {"path": "pkg://reward_fns", "reward_kwargs": {"preset": "quickstart"}},
                    "reward_manager": {"name": "naive"},
                },
            }
        )
        OmegaConf.set_struct(config, True)
        trainer = get_trainer_cls(f"cxr_{mode}")(config)
        assert isinstance(trainer, get_trainer_cls(mode))
        assert trainer.spec.reward_names[0] == "gleu"
        trainer.monitor.done.set()
    assert seen == ["sync", "colocate_async"]
    config.reward.custom_reward_function.path = "mine.py"
    with pytest.raises(UsageError, match="pkg://reward_fns"):
        get_trainer_cls("cxr_sync")(config)


@pytest.mark.parametrize("platform", ["", "cpu"])
def test_the_plugin_adds_them_when_verls_trainers_are_imported_and_not_before(platform):
    code = """
import sys, verl
from recipe.cxr_grpo.cpu import shims
shims.torchvision_operators()  # this machine's need, whatever the platform
import recipe.cxr_grpo.plugin
print("verl.trainer.ppo.v1" in sys.modules, "recipe.cxr_grpo.plugin.trainers" in sys.modules)
from verl.trainer.ppo.v1 import get_trainer_cls
print(get_trainer_cls("cxr_sync").__name__)
"""
    env = {key: value for key, value in os.environ.items() if key != "VERL_PLATFORM"} | {"VERL_PLATFORM": platform}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False", "PPOTrainerSyncWithComponents"], done.stderr
