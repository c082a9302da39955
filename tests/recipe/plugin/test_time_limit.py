"""When a run is saved and stopped for its time limit, and that verl's own loop then ends with everything logged."""

from types import SimpleNamespace

import pytest

pytest.importorskip("verl")

from omegaconf import OmegaConf

from recipe.cxr_grpo.plugin.monitor import Monitor
from recipe.cxr_grpo.plugin.time_limit import MARGIN, TimeLimit
from recipe.cxr_grpo.records import early_stop

LIMIT = "before the time limit"


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def limit(tmp_path, clock):
    return TimeLimit(tmp_path, 2000.0, clock)


def spend(limit, clock, **seconds):
    for phase, took in seconds.items():
        limit.enter(phase)
        clock.now += took
    limit.enter("metrics")


def test_a_run_stops_when_another_step_and_its_checkpoint_would_not_fit(limit, clock):
    spend(limit, clock, rollouts=60, update=40, checkpoint=30, metrics=5)
    clock.now = 2000 - (105 + 30 + MARGIN)
    limit.since = clock.now
    assert limit.reached(0) is None
    clock.now += 1
    limit.since = clock.now
    assert limit.reached(0) == LIMIT


def test_the_longest_step_and_checkpoint_count_and_nothing_before_the_first_step(limit, clock):
    clock.now += 300  # the start
    spend(limit, clock, **{"trial of the rewards": 100})
    spend(limit, clock, rollouts=50, checkpoint=20)
    assert limit.reached(0) is None
    spend(limit, clock, rollouts=20, checkpoint=10)
    assert limit.reached(0) is None
    assert limit.longest["step"] == 50 and limit.longest["checkpoint"] == 20


def test_a_checkpoint_not_yet_seen_counts_as_a_step(limit, clock):
    clock.now = 2000 - (100 + 100 + MARGIN) - 99
    limit.since = clock.now
    spend(limit, clock, rollouts=100)
    assert limit.reached(0) == LIMIT


def test_validations_that_are_due_count(limit, clock):
    spend(limit, clock, validation=200, rollouts=10)
    clock.now = limit.since = 2000 - (10 + 10 + MARGIN) - 300
    assert limit.reached(1) is None
    assert limit.reached(2) == LIMIT


def test_a_request_ends_a_run_whatever_the_time(tmp_path, clock):
    limit = TimeLimit(tmp_path, float("inf"), clock)
    spend(limit, clock, rollouts=1)
    assert limit.reached(0) is None
    (tmp_path / early_stop.REQUEST).touch()
    assert limit.reached(0) == "on request (SIGUSR1)"


@pytest.fixture
def trainer(tmp_path, monkeypatch):
    """A `cxr_sync` trainer of ten steps with verl's loop and nothing to train; `done` has what happened, in order."""
    from verl.trainer.ppo.v1 import PPOTrainer, get_trainer_cls, trainer_base

    done = []

    def happens(name, answer=None):
        def call(self, *_, **__):
            done.append((name, self.global_steps))
            return answer

        return call

    log = SimpleNamespace(log=lambda data, step: done.append(("logged", step)))
    monkeypatch.setattr(trainer_base, "Tracking", lambda **_: log)
    monkeypatch.setattr(trainer_base.tq, "kv_clear", lambda **_: None)
    trainer = object.__new__(get_trainer_cls("cxr_sync"))
    ours, verls = type(trainer), type(trainer).__mro__[2]
    for name in ("_save_checkpoint", "on_step_begin", "on_step_end", "_shutdown_dump_executor", "on_validate_begin"):
        monkeypatch.setattr(verls, name, happens(name))
    monkeypatch.setattr(ours, "step", happens("step", SimpleNamespace(keys=[], partition_id="train")))
    monkeypatch.setattr(ours, "_compute_metrics", happens("metrics"))
    monkeypatch.setattr(ours, "_counts", lambda self: {})
    monkeypatch.setattr(ours, "_validate", happens("validate", {"val": 1}), raising=False)
    monkeypatch.setattr(PPOTrainer, "_start_profiling", lambda self: None)
    monkeypatch.setattr(PPOTrainer, "_stop_profiling", lambda self: None)
    trainer.config = OmegaConf.create({
        "actor_rollout_ref": {"actor": {"checkpoint": {}}}, "global_profiler": {"steps": None}, "skip": {},
        "trainer": {"project_name": "p", "experiment_name": "e", "logger": [], "val_before_train": False,
                    "total_epochs": 9, "save_freq": -1, "test_freq": -1, "v1": {"trainer_mode": "sync"}},
    })  # fmt: skip
    trainer.trainer_mode, trainer.folder, trainer.done = "sync", tmp_path, done
    trainer.global_steps, trainer.steps_per_epoch, trainer.total_training_steps = 0, 5, 10
    trainer.monitor, trainer._dump_futures = Monitor(tmp_path, lambda now: None), []
    trainer.rates, trainer.limit = SimpleNamespace(dead=lambda now: None), TimeLimit(tmp_path, float("inf"))
    monkeypatch.setattr(ours, "_rollout_server_managers", lambda self: [], raising=False)
    return trainer


def ask_in_step(trainer, number, monkeypatch):
    """Ask the run to stop while its step ``number`` is under way."""
    step = type(trainer).step

    def asked(self, *args):
        if self.global_steps == number:
            (self.folder / early_stop.REQUEST).touch()
        return step(self, *args)

    monkeypatch.setattr(type(trainer), "step", asked)


def run(trainer):
    """verl's own loop; the trial of the rewards and the watching are left out."""
    type(trainer).__mro__[2].fit(trainer, SimpleNamespace())


@pytest.mark.parametrize("save_freq", [-1, 3])
def test_verl_s_loop_ends_after_a_step_that_is_saved_once_and_logged(trainer, monkeypatch, save_freq):
    trainer.config.trainer.save_freq = save_freq
    (trainer.folder / "global_step_3").mkdir()
    ask_in_step(trainer, 3, monkeypatch)
    run(trainer)
    events = [name for name, number in trainer.done if number == 3]
    assert events == ["on_step_begin", "step", "_save_checkpoint", "on_step_end", "metrics", "logged"]
    assert max(number for _, number in trainer.done[:-1]) == 3
    assert trainer.done[-1][0] == "_shutdown_dump_executor"
    assert (trainer.folder / "global_step_3" / "manifest.json").exists()
    assert early_stop.take_note(trainer.folder) == "saved at step 3 on request (SIGUSR1)"


def test_a_validation_that_is_due_takes_place_before_the_end(trainer, monkeypatch):
    trainer.config.trainer.test_freq = 3
    (trainer.folder / "global_step_3").mkdir()
    ask_in_step(trainer, 3, monkeypatch)
    run(trainer)
    assert [name for name, number in trainer.done if number == 3][-3:] == ["validate", "metrics", "logged"]


def test_a_run_at_its_last_step_is_complete(trainer, monkeypatch):
    ask_in_step(trainer, 10, monkeypatch)
    run(trainer)
    assert ("logged", 10) in trainer.done
    assert early_stop.take_note(trainer.folder) is None


def test_validations_ahead(trainer):
    trainer.config.trainer.test_freq = 4
    counts = []
    for trainer.global_steps in (2, 3, 4, 5, 9):
        counts.append(trainer._validations())
    assert counts == [0, 1, 1, 0, 1]
    trainer.config.trainer.test_freq = -1
    assert trainer._validations() == 0
