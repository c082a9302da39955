"""Attempts at a run whose trainer is a script: what it reaches, how it ends, and from where the next one goes on."""

import json
import os
import signal

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("verl")

from recipe.cxr_grpo import launch
from recipe.cxr_grpo.records import heartbeat
from recipe.cxr_grpo.running import checks, locks, training
from recipe.cxr_grpo.running.start import TRAINERS
from reward_fns.errors import UsageError

# A trainer that saves every fifth step and follows a plan: for each attempt its last step, and its last words.
TRAINER = """
import json, os, sys, time, zipfile
from pathlib import Path
from recipe.cxr_grpo.records import checkpoints, early_stop

folder = Path(next(a for a in sys.argv if a.startswith("trainer.default_local_dir=")).partition("=")[2])
metrics = Path(os.environ["VERL_FILE_LOGGER_PATH"])
last, words = json.loads(os.environ["PLAN"])[int(metrics.name.split(".")[-2]) - 1]
tracker = folder / checkpoints.TRACKER
with metrics.open("w") as file:
    for step in range(int(tracker.read_text()) + 1 if tracker.exists() else 1, last + 1):
        file.write(json.dumps({"step": step, "data": {}}) + chr(10))
        if step % 5 == 0:
            checkpoint = folder / f"global_step_{step}"
            (checkpoint / "actor" / "dist_ckpt").mkdir(parents=True)
            (checkpoint / "actor" / "dist_ckpt" / ".metadata").write_text("weights")
            zipfile.ZipFile(checkpoint / "data.pt", "w").close()
            tracker.write_text(str(step))
            checkpoints.seal(checkpoint)
print(words, flush=True)
if words == "silence":
    beat = {"time": 1, "step": last, "phase": "rollouts", "pid": os.getpid(), "silence_limit": 1}
    (folder / "heartbeat.json").write_text(json.dumps(beat))
    time.sleep(600)
while words == "waits" and not (folder / early_stop.REQUEST).exists():
    time.sleep(0.05)
if words in ("waits", "stops", "fails after its note"):
    early_stop.note(folder, f"saved at step {last} before the time limit")
sys.exit(words not in ("done", "waits", "stops"))
"""


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Run the plan of a trainer in ``tmp_path/out``; returns what was logged of each attempt."""
    (tmp_path / "planned_trainer.py").write_text(TRAINER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    monkeypatch.setitem(TRAINERS, "grpo", "planned_trainer")
    model, out = tmp_path / "model", tmp_path / "out"
    model.mkdir()
    (model / "config.json").touch()
    pq.write_table(pa.table({"prompt": ["Where?"]}), tmp_path / "rows.parquet")
    overrides = [
        f"data.train_files={tmp_path}/rows.parquet",
        f"data.val_files={tmp_path}/rows.parquet",
        f"actor_rollout_ref.model.path={model}",
        "actor_rollout_ref.rollout.name=hf",  # needs no lock of the machine
        f"trainer.default_local_dir={out}/checkpoints",
        "trainer.total_training_steps=1",  # the plan says how far it gets
    ]

    def started(plan, *more, command=False, **options):
        monkeypatch.setenv("PLAN", json.dumps(plan))
        if command:
            return launch.main(["grpo", "--out", str(out), *more, *overrides])
        return training.run_training("grpo", "quickstart_grpo", [*overrides, *more], out=out, **options)

    started.out = out
    return started


def attempts(start):
    """The steps of each attempt."""
    files = sorted(start.out.glob("grpo.metrics.*.jsonl"))
    return [[json.loads(line)["step"] for line in file.read_text().splitlines()] for file in files]


def test_a_failed_run_goes_on_from_its_newest_checkpoint(start, capsys):
    plan = [[7, "RUN STOPPED: engine 3 is dead"], [12, "RUN STOPPED: engine 3 is dead"], [15, "done"]]
    assert start(plan, "--restarts", "3", command=True) == 0
    assert attempts(start) == [[*range(1, 8)], [*range(6, 13)], [*range(11, 16)]]
    said = capsys.readouterr().err
    assert "restart 1 of 3 from step 5: The run was stopped: engine 3 is dead\n" in said
    assert "restart 2 of 3 from step 10: The run was stopped: engine 3 is dead\n" in said


def test_restarts_are_bounded(start, capsys):
    plan = [[7, "ValueError: a"], [8, "ValueError: b"], [9, "ValueError: c"], [15, "done"]]
    assert start(plan, "--restarts", "2", command=True) == 1
    assert len(attempts(start)) == 3
    assert capsys.readouterr().err.endswith("  | ValueError: c\n\nThe same command resumes.\n")


def test_without_the_option_a_failure_is_final(start):
    with pytest.raises(training.RunFailed):
        start([[7, "ValueError: a"], [15, "done"]])
    assert len(attempts(start)) == 1


def test_the_same_cause_twice_without_a_new_step_is_enough(start):
    plan = [[7, "ValueError: at 0x7f31 in 5.1 s"], [7, "ValueError: at 0x8a02 in 7.4 s"], [15, "done"]]
    with pytest.raises(training.RunFailed, match="not restarted again: twice the same cause without a new step"):
        start(plan, restarts=9)
    assert len(attempts(start)) == 2


def test_another_cause_at_the_same_step_is_tried_again(start):
    start([[7, "ValueError: a"], [7, "KeyError: b"], [7, "ValueError: a"], [8, "done"]], restarts=3)
    assert len(attempts(start)) == 4


def test_neither_wrong_use_nor_an_interruption_is_restarted(start):
    with pytest.raises(UsageError, match="resume_mode=auto"):
        start([[7, "done"]], "trainer.resume_mode=disable", restarts=1)
    assert not start.out.exists()

    def interrupt():
        if attempts(start):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start([[7, "silence"], [15, "done"]], restarts=3, watch=interrupt)
    assert len(attempts(start)) == 1


def test_a_run_that_stops_before_the_time_limit_says_so_and_is_not_restarted(start, capsys):
    assert start([[5, "stops"], [15, "done"]], "--restarts", "3", command=True) == 75
    assert capsys.readouterr().err.endswith("launch: saved at step 5 before the time limit; the same command goes on\n")
    assert start([[5, "stops"], [15, "done"]], command=True) == 0
    assert attempts(start) == [[*range(1, 6)], [*range(6, 16)]]


def test_a_signal_reaches_the_trainer_once(start, capsys):
    def ask():
        if attempts(start):
            os.kill(os.getpid(), signal.SIGUSR1)

    with pytest.raises(training.StoppedEarly, match="saved at step 5 "):
        start([[5, "waits"]], watch=ask)
    assert "SIGUSR1: the run is saved and stopped after this step" in capsys.readouterr().err
    asked = start.out / "checkpoints" / "save_and_stop"
    assert asked.exists()
    start([[5, "stops"], [15, "done"]])
    assert not asked.exists()


def test_verl_s_own_trainers_go_on_at_the_signal(start, capsys):
    def ask():
        if attempts(start):
            os.kill(os.getpid(), signal.SIGUSR1)

    start([[7, "done"]], "trainer.v1.trainer_mode=sync", watch=ask)
    assert "SIGUSR1: the run is not stopped: verl's own trainers can't be" in capsys.readouterr().err
    assert not (start.out / "checkpoints" / "save_and_stop").exists()


def test_an_attempt_that_saved_and_then_failed_does_not_end_the_next_one(start):
    start([[5, "fails after its note"], [15, "done"]], restarts=1)
    assert attempts(start)[1] == [*range(6, 16)]


def test_a_damaged_checkpoint_is_not_gone_on_from(start, capsys):
    def harm():
        for path in (start.out / "checkpoints" / "global_step_10").glob("data.pt"):
            path.write_bytes(b"")

    start([[12, "ValueError: a"], [15, "done"]], restarts=1, watch=harm)
    assert attempts(start)[1][0] == 6
    said = capsys.readouterr().err
    assert "global_step_10 is not used: data.pt has 0 bytes" in said
    assert "restart 1 of 1 from step 5: " in said


def test_no_restart_from_scratch_if_no_checkpoint_is_sound(start):
    def harm():
        for path in start.out.glob("checkpoints/global_step_*/data.pt"):
            path.write_bytes(b"")

    with pytest.raises(training.RunFailed) as failure:
        start([[7, "ValueError: a"], [15, "done"]], restarts=1, watch=harm)
    assert "| ValueError: a" in str(failure.value)
    assert "It can't be restarted: " in str(failure.value) and "global_step_5: data.pt has 0 bytes" in str(
        failure.value
    )
    with pytest.raises(UsageError, match="no checkpoint here can be resumed from"):
        start([[7, "ValueError: a"], [15, "done"]])
    assert len(attempts(start)) == 1


def test_a_silent_trainer_is_ended_and_the_run_goes_on(start, monkeypatch, capsys):
    monkeypatch.setattr(heartbeat, "MIN_SILENCE", 1.0)
    start([[7, "silence"], [15, "done"]], restarts=1)
    said = capsys.readouterr().err
    assert "restart 1 of 1 from step 5: grpo: no heartbeat of the trainer for " in said
    assert "phase 'rollouts', step 7" in said
    pid = int(said.partition("step 7, process ")[2].partition(")")[0])
    assert not psutil.pid_exists(pid)


def test_verl_s_own_trainers_give_no_heartbeat_and_are_not_asked_for_one(start, monkeypatch):
    monkeypatch.setattr(heartbeat, "MIN_SILENCE", 0.1)

    def leave():
        if (start.out / "checkpoints" / "heartbeat.json").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start([[7, "silence"]], "trainer.v1.trainer_mode=sync", watch=leave)


def test_a_folder_is_for_one_run_at_a_time(start):
    folder = start.out / "checkpoints"
    folder.mkdir(parents=True)
    with locks.lock(folder / "run.lock", ""), pytest.raises(UsageError, match=f"another run is at work in {folder}"):
        start([[7, "done"]])
    assert attempts(start) == []


def test_a_checkpoint_that_the_config_names_is_checked_first(start, tmp_path):
    bad = tmp_path / "global_step_10"
    bad.mkdir()
    named = ["trainer.resume_mode=resume_path", f"trainer.resume_from_path={bad}"]
    with pytest.raises(UsageError, match=r"resume_from_path: .*global_step_10: it has no shards of the model"):
        start([[7, "done"]], *named)


def test_wrong_limits_are_refused(start):
    for option in (["--restarts", "-1"], ["--startup-limit", "0"]):
        with pytest.raises(SystemExit) as stop:
            start([], *option, command=True)
        assert stop.value.code == 2


def test_there_always_is_a_finished_checkpoint_while_the_next_is_written():
    assert checks.compose("quickstart_grpo", []).trainer.max_actor_ckpt_to_keep == 2
    assert checks.compose("quickstart_sft", []).trainer.max_ckpt_to_keep == 2
