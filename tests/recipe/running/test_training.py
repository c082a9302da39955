import hashlib
import json
import shutil
import subprocess
import sys
from collections import namedtuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("verl")

from recipe.cxr_grpo.running import checks, training
from reward_fns.errors import UsageError


@pytest.fixture
def inputs(tmp_path):
    """Overrides with which the quickstart's GRPO config passes the checks."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").touch()
    for name in ("train.parquet", "val.parquet"):
        pq.write_table(pa.table({"prompt": ["Where?"]}), tmp_path / name)
    return {
        "data.train_files": str(tmp_path / "train.parquet"),
        "data.val_files": str(tmp_path / "val.parquet"),
        "actor_rollout_ref.model.path": str(model),
        "actor_rollout_ref.rollout.name": "hf",  # needs no lock of the machine
    }


def check(inputs, out, **changes):
    overrides = [f"{key}={value}" for key, value in (inputs | changes).items()]
    checks.check_run("grpo", checks.compose("quickstart_grpo", overrides), out)


def test_two_runs_on_a_machine_would_get_each_other_s_weights(monkeypatch):
    monkeypatch.setattr(training.locks, "lock", lambda path, why: (path, why))
    path, why = training.weights_lock(checks.compose("quickstart_grpo", []))
    assert str(path) == "/tmp/cxr-grpo-01000000.lock" and "Wait for its end" in why
    for other in ("actor_rollout_ref.rollout.name=hf", "ray_kwargs.ray_init.address=auto"):
        with training.weights_lock(checks.compose("quickstart_grpo", [other])):
            pass


def test_a_cluster_that_a_run_joins_is_told_its_environment_and_no_size():
    env = checks.run_environment() | {"VERL_FILE_LOGGER_PATH": "/runs/a b.jsonl", "SLURM_JOB_END_TIME": "1800000000"}
    own = checks.ray_overrides(checks.compose("quickstart_grpo", []), env)
    assert own == ["+ray_kwargs.ray_init._temp_dir={RAY_TMP}"]
    join = ["ray_kwargs.ray_init.address=auto"]
    joined = checks.compose(
        "quickstart_grpo", join + checks.ray_overrides(checks.compose("quickstart_grpo", join), env)
    )
    ray_init = joined.ray_kwargs.ray_init
    assert ray_init.num_cpus is None and ray_init.num_gpus is None and "_temp_dir" not in ray_init
    given = ray_init.runtime_env.env_vars
    assert given.VERL_FILE_LOGGER_PATH == "/runs/a b.jsonl" and given.VERL_PLATFORM == "cpu"
    assert given.SLURM_JOB_END_TIME == "1800000000"
    assert all(given[name] == env[name] for name in given)


def test_a_complete_config_passes(inputs, tmp_path):
    check(inputs, tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("data.train_files", "/nowhere/train.parquet", "data.train_files: no file /nowhere/train.parquet"),
        ("data.val_files", "[/nowhere/a.parquet,/nowhere/b.parquet]", "data.val_files: no file /nowhere/a.parquet"),
        (
            "actor_rollout_ref.model.path",
            "/nowhere/model",
            "actor_rollout_ref.model.path: no config.json in /nowhere/model",
        ),
        ("reward.custom_reward_function.reward_kwargs.preset", "quickstrat", "quickstart"),
        ("data.train_batch_size", "18", "18 is not a multiple of ppo_mini_batch_size"),
        ("actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu", "48", "actor.ppo_micro_batch_size_per_gpu=48"),
        ("actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu", "48", "ref.log_prob_micro_batch_size_per_gpu=48"),
        ("reward.custom_reward_function.reward_kwargs.spec", "{report: [{name: gleu}]}", "(?i)exactly one|not both"),
    ],
)
def test_broken_use_is_refused_by_name(inputs, tmp_path, key, value, message):
    with pytest.raises(UsageError, match=message):
        check(inputs, tmp_path, **{key: value})


def test_config_and_environment_name_the_same_platform(inputs, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"trainer\.device=cuda, but VERL_PLATFORM=cpu is set: unset it"):
        check(inputs, tmp_path, **{"trainer.device": "cuda"})
    monkeypatch.delenv("VERL_PLATFORM")
    with pytest.raises(UsageError, match=r"trainer\.device=cpu: set VERL_PLATFORM=cpu"):
        check(inputs, tmp_path)


def test_a_setting_that_verl_ignores_is_refused(inputs, tmp_path):
    key = "actor_rollout_ref.actor.freeze_vision_tower"
    with pytest.raises(UsageError, match=f"{key}: .* never reads it; .*frozen_vision"):
        check(inputs, tmp_path, **{key: "true"})


def test_a_spec_of_one_s_own_is_checked_too(inputs, tmp_path):
    kwargs = "reward.custom_reward_function.reward_kwargs."
    check(inputs, tmp_path, **{kwargs + "preset": "null", kwargs + "spec": "{grounding: [{name: box_iou}]}"})
    with pytest.raises(UsageError, match="box_iou"):
        check(inputs, tmp_path, **{kwargs + "preset": "null", kwargs + "spec": "{grounding: [{name: box_iuo}]}"})


def test_an_override_that_does_not_exist_is_refused(inputs):
    with pytest.raises(UsageError, match=r"trainer\.total_step"):
        checks.compose("quickstart_grpo", ["trainer.total_step=3"])


def test_a_full_disk_is_refused(inputs, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 10**12 - 10**6, 10**6))
    with pytest.raises(UsageError, match=r"0\.0 GB free, a run needs"):
        check(inputs, tmp_path)


def test_a_platform_that_can_not_be_loaded_is_said_aloud():
    code = """
import sys
from recipe.cxr_grpo.running import checks
sys.modules["recipe.cxr_grpo.cpu.platform"] = None
try:
    checks.check_platform()
except Exception as error:
    print(type(error).__name__, error)
"""
    env = {"VERL_PLATFORM": "cpu", "PATH": "", "HOME": "/nonexistent"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert "UsageError the CPU platform can't be loaded" in done.stdout, done.stderr


def test_a_run_that_fails_names_the_scorer_and_keeps_to_its_own_attempt(inputs, tmp_path, monkeypatch):
    said = "ScorerUnavailable: reward 'green' failed on sample 'p7': ConnectionError('refused')"

    def trainer(command, log, **_):
        with log.open("a") as file:
            file.write(f"(RewardLoopWorker pid=7) reward_fns.errors.{said}\nRuntimeError: no trajectories\n")
        return 1

    monkeypatch.setattr(training.processes, "run", trainer)
    (tmp_path / "grpo.log").write_text("an earlier attempt\nScorerUnavailable: reward 'gleu' failed\n")
    overrides = [f"{key}={value}" for key, value in inputs.items()]
    with pytest.raises(training.RunFailed) as failure:
        training.run_training("grpo", "quickstart_grpo", overrides, out=tmp_path)
    assert "grpo ended with status 1" in str(failure.value)
    assert "| RuntimeError: no trajectories" in str(failure.value)
    assert "earlier" not in str(failure.value)
    assert str(failure.value).endswith(said.removeprefix("ScorerUnavailable: "))


@pytest.mark.parametrize(("saved", "enough"), [(0, False), (3, True)])
def test_a_run_without_data_for_its_last_step_is_not_taken_for_complete(inputs, tmp_path, monkeypatch, saved, enough):
    def trainer(command, env, **_):
        with open(env["VERL_FILE_LOGGER_PATH"], "w") as file:
            file.writelines(json.dumps({"step": step, "data": {}}) + "\n" for step in (1, 2))
        (tmp_path / "checkpoints").mkdir(exist_ok=True)
        (tmp_path / "checkpoints" / "latest_checkpointed_iteration.txt").write_text(str(saved))
        return 0

    monkeypatch.setattr(training.processes, "run", trainer)
    overrides = [f"{key}={value}" for key, value in inputs.items()]
    overrides += ["trainer.total_training_steps=3", f"trainer.default_local_dir={tmp_path}/checkpoints"]

    def run():
        training.run_training("grpo", "quickstart_grpo", overrides, out=tmp_path)

    if enough:  # the line of the last step was lost, the step was not
        return run()
    with pytest.raises(UsageError, match=r"after step 2 of trainer\.total_training_steps=3, .* Raise trainer\.total"):
        run()


def test_a_manager_that_rewards_failures_with_0_is_refused(inputs, tmp_path):
    with pytest.raises(UsageError, match="rate_limited"):
        check(inputs, tmp_path, **{"reward.reward_manager.name": "rate_limited"})


def test_weights_are_fetched_before_anything_starts_and_recorded(inputs, tmp_path, monkeypatch):
    (tmp_path / "weighty.py").write_text(f"""
from reward_fns import reward
from reward_fns.models.weights import HubFile


@reward("weighty", task="report", range=(0.0, 1.0), needs=lambda options: [HubFile({str(tmp_path)!r}, "weights.bin")])
def weighty(prediction: str, reference: str) -> float:
    return 0.0
""")
    (tmp_path / "spec.yaml").write_text("report: [{name: weighty, path: weighty.py}]")
    started = []
    monkeypatch.setattr(training.processes, "run", lambda *_, **__: started.append(1) and 0)
    kwargs = "reward.custom_reward_function.reward_kwargs."
    given = inputs | {kwargs + "preset": "null", kwargs + "spec": str(tmp_path / "spec.yaml")}
    overrides = [f"{key}={value}" for key, value in given.items()]
    with pytest.raises(UsageError, match=r"weighty: .*has no weights\.bin"):
        training.run_training("grpo", "quickstart_grpo", overrides, out=tmp_path / "out")
    assert not started and not (tmp_path / "out").exists()
    (tmp_path / "weights.bin").write_bytes(b"abc")
    training.run_training("grpo", "quickstart_grpo", overrides, out=tmp_path / "out")
    recorded = json.loads((tmp_path / "out" / "weights.json").read_text())
    assert recorded[str(tmp_path / "weights.bin")] == hashlib.sha256(b"abc").hexdigest()
    assert started
