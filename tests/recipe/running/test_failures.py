import shutil
from collections import namedtuple

import pytest

from recipe.cxr_grpo.running.failures import RunFailed, explain

RESUMED = """\
(TaskRunnerV1 pid=11) Resuming from /runs/mine/checkpoints/global_step_20, setting global step to 20
Traceback (most recent call last):
  File "verl/trainer/ppo/v1/trainer_base.py", line 880, in _load_checkpoint
    self.actor_rollout_wg.load_checkpoint(
  File "verl/utils/checkpoint/fsdp_checkpoint_manager.py", line 207, in load_checkpoint
    model_state_dict = torch.load(local_model_path, weights_only=False)
RuntimeError: PytorchStreamReader failed reading zip archive: failed finding central directory
"""
FULL = "RuntimeError: [enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0, file write failed"


@pytest.fixture
def failure(tmp_path, monkeypatch):
    """The failure that a log means, and the disk space that is left."""

    def explained(text, free=50e9):
        usage = namedtuple("usage", "total used free")
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 0, free))
        log = tmp_path / "grpo.log"
        log.write_text("RUN STOPPED: an earlier attempt\n" + text)
        start = len("RUN STOPPED: an earlier attempt\n")
        checkpoints = tmp_path / "checkpoints"  # on the same disk
        checkpoints.mkdir(exist_ok=True)
        return explain("grpo ended with status 1", log, start, [tmp_path, checkpoints, tmp_path / "nowhere"])

    return explained


def test_without_a_known_cause_the_last_error_tells_failures_apart(failure):
    found = failure("ValueError: first\n(pid=3) ray.exceptions.RayTaskError(KeyError): x\nbye\n")
    assert str(found).endswith("  | bye\n") and "grpo ended with status 1; the end of " in str(found)
    assert found.cause == "grpo ended with status 1: ray.exceptions.RayTaskError(KeyError): x"
    assert "earlier" not in str(found)
    assert failure("killed\n").cause == "grpo ended with status 1"


def test_what_the_trainer_s_monitor_says_is_the_cause(failure):
    found = failure(
        "RUN STOPPED: first\n\x1b[36m(TaskRunnerV1 pid=12)\x1b[0m RUN STOPPED: vLLM engine 0 is dead\nbye\n"
    )
    assert found.cause == "The run was stopped: vLLM engine 0 is dead"
    assert str(found).endswith("\nThe run was stopped: vLLM engine 0 is dead")


@pytest.mark.parametrize(
    "line",
    ["OSError: [Errno 28] No space left on device: '/runs/x'", "I/O error: No space left on device (os error 28)", FULL,
     "OSError: [Errno 122] Disk quota exceeded"],
)  # fmt: skip
def test_a_full_disk_is_named_with_its_folder_and_space(failure, tmp_path, line):
    found = failure(f"{line}\n", free=12e9)
    assert f"No space left on a disk, or in a quota: {tmp_path} has 12.00 GB free." in found.cause
    assert "nowhere" not in found.cause and "checkpoints has" not in found.cause


def test_a_full_disk_is_named_even_if_the_log_was_cut(failure, tmp_path):
    assert f"{tmp_path} has 0.00 GB free" in failure("step:3 - actor/gr", free=0).cause
    assert "No space left" not in str(failure("step:3 - actor/gr"))


def test_a_checkpoint_that_can_not_be_loaded_is_named(failure):
    assert failure(RESUMED).cause == (
        "The checkpoint /runs/mine/checkpoints/global_step_20 could not be loaded: RuntimeError: PytorchStreamReader "
        "failed reading zip archive: failed finding central directory. Is it of this model, and of this number of GPUs?"
    )


def test_an_error_long_after_resuming_is_not_the_checkpoint_s(failure):
    first = RESUMED.splitlines()[0]
    found = failure(f"{first}\nstep:21\nRuntimeError: CUDA out of memory\n")
    assert "could not be loaded" not in str(found)


def test_a_long_line_takes_no_time(failure):
    failure("x" * 1_000_000 + "\n" + "a." * 500_000 + "\n")


def test_a_note_keeps_the_cause():
    noted = RunFailed("grpo ended\n | end", "because").with_note("so there")
    assert (str(noted), noted.cause) == ("grpo ended\n | end\nso there", "because")
    assert RunFailed("grpo ended\n | end").cause == "grpo ended"


def test_why_a_run_was_stopped_says_more_than_the_last_failure_of_a_scorer(failure):
    found = failure(
        "ScorerUnavailable: reward 'gleu' failed on sample 'p1': down\nRUN STOPPED: reward 'gleu': given up\n"
    )
    assert str(found).splitlines()[-1] == "The run was stopped: reward 'gleu': given up"


DEAD = """\
ray.exceptions.RayTaskError(ActorDiedError): ray::TaskRunnerV1.run() (pid=31252, ip=192.0.2.2)
  File "verl/experimental/reward_loop/reward_loop.py", line 1, in compute
ray.exceptions.ActorDiedError: The actor died unexpectedly before finishing this task.
\tclass_name: RewardLoopWorker
\tactor_id: 5ad5
"""
GONE = "ray.exceptions.ActorUnavailableError: The actor 3c17 is unavailable: RPC error: Socket closed rpc_code: 14.\n"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (DEAD, "RewardLoopWorker"),
        (GONE, "TaskRunnerV1"),
        (DEAD.replace("RewardLoopWorker", "TaskRunnerV1"), "TaskRunnerV1"),
    ],
)
def test_a_process_that_died_is_named(failure, text, name):
    assert failure(text).cause.startswith(f"A process of the run died: {name}. ")


def test_what_stopped_the_run_says_more_than_which_process_died_then(failure):
    assert failure("RUN STOPPED: the vLLM engine died\n" + GONE).cause == "The run was stopped: the vLLM engine died"
    survived = (
        f"(AgentLoopWorker pid=3) {GONE}ray.exceptions.RayTaskError(KeyError): ray::TaskRunnerV1.run()\nKeyError: 1\n"
    )
    assert failure(survived).cause == "grpo ended with status 1: KeyError: 1"
