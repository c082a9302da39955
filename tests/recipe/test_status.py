import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recipe.cxr_grpo import status
from recipe.cxr_grpo.running import locks

NOW = 1.8e9
RECORDED = Path(__file__).parent / "results" / "recorded" / "grpo.metrics.1.jsonl"
ACTOR = "\x1b[36m(TaskRunnerV1 pid=16120)\x1b[0m"
STARTED = f"""\
ray init kwargs: {{'num_cpus': 32, 'address': 'local'}}
{ACTOR} /site-packages/verl/workers/engine/__init__.py:69: UserWarning: megatron engine is not available: \
ModuleNotFoundError("No module named 'megatron'")
{ACTOR}             'custom_reward_function': {{'name': 'compute_score',
{ACTOR}                                        'path': 'pkg://reward_fns',
{ACTOR}                                        'reward_kwargs': {{'preset': 'quickstart',
{ACTOR}                                                          'spec': None}}}},
{ACTOR}              'default_local_dir': '/elsewhere/checkpoints',
{ACTOR} INFO:2026-11-28 03:53:55,427:Total training steps: 60
\x1b[36m(WorkerDict pid=16511)\x1b[0m Total steps: 60, num_warmup_steps: 4
"""


class Folder:
    """A folder of a run, in the formats of launch, verl and our trainer."""

    def __init__(self, out):
        self.out, self.checkpoints = out, out / "checkpoints"

    def started(self, *, more=""):
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        shutil.copy(RECORDED, self.out)
        (self.out / "grpo.log").write_text(STARTED + more)
        return self

    def beat(self, seconds_ago, host="node7", silence_limit=300.0):
        at = {"time": NOW - seconds_ago, "step": 51, "phase": "update", "pid": 7, "host": host}
        (self.checkpoints / "heartbeat.json").write_text(json.dumps(at | {"silence_limit": silence_limit}))

    def checkpoint(self, step, *, sealed=True, size=3):
        actor = self.checkpoints / f"global_step_{step}" / "actor"
        actor.mkdir(parents=True)
        (actor / "model_world_size_1_rank_0.pt").write_bytes(b"123")
        files = {"actor/model_world_size_1_rank_0.pt": {"size": size, "sha256": "0"}}
        if sealed:
            (actor.parent / "manifest.json").write_text(json.dumps({"files": files}))
        (self.checkpoints / "latest_checkpointed_iteration.txt").write_text(str(step))

    def facts(self, max_rate=None):
        return status.facts(self.out, max_rate)

    def rules(self):
        return [warning["rule"] for warning in self.facts()["warnings"]]


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: NOW)
    return Folder(tmp_path)


@pytest.fixture
def squeue(tmp_path_factory, monkeypatch):
    """Sets what the squeue of a Slurm on the PATH answers, and returns the file of what it was asked."""
    folder = tmp_path_factory.mktemp("slurm")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def answers(line, exit_status=0):
        script = f'#!/bin/sh\nprintf "%s\\n" "$@" > {folder}/asked\nprintf "%s\\n" "{line}" >&{1 + (exit_status > 0)}\n'
        script += f"exit {exit_status}\n"
        (folder / "squeue").write_text(script)
        (folder / "squeue").chmod(0o755)
        return folder / "asked"

    return answers


def test_a_held_lock_means_that_a_run_is_at_work(run):
    run.started().beat(1)
    with locks.lock(run.checkpoints / "run.lock", "taken"):
        found = run.facts()
    assert (found["state"], found["step"], found["total"], found["warnings"]) == ("running", 50, 60, [])
    assert found["detail"] == "phase 'update' of step 51, heartbeat 1 s ago"
    assert found["seconds_per_step"] == 11.3  # the median of the last 20
    end = NOW + 10 * (11.3 + 123 / 20)  # there was one validation in 20 steps, of 123 s
    assert found["expected_end"] == time.strftime("%Y-%m-%d %H:%M", time.localtime(end))


def test_before_its_first_heartbeat_a_run_is_at_work_too(run):
    run.started()
    with locks.lock(run.checkpoints / "run.lock", "taken"):
        assert (run.facts()["state"], run.facts()["detail"]) == ("running", "")


@pytest.mark.parametrize(
    ("seconds", "host", "state"), [(5, "node7", "running"), (5, None, "stopped"), (50, "node7", "stopped")]
)
def test_a_young_heartbeat_of_another_machine_means_it_too(run, seconds, host, state):
    run.started().beat(seconds, host or os.uname().nodename)  # of this one, the lock would be held
    assert run.facts()["state"] == state


@pytest.mark.parametrize(
    ("age", "limit", "stalled"), [(59, 10, False), (61, 10, True), (299, 300, False), (301, 300, True)]
)
def test_a_heartbeat_older_than_its_own_limit_is_a_stalled_run(run, age, limit, stalled):
    run.started().beat(age, silence_limit=limit)
    with locks.lock(run.checkpoints / "run.lock", "taken"):
        found = run.facts()
    assert found["state"] == ("stalled" if stalled else "running")
    assert [warning["rule"] for warning in found["warnings"]] == ["stalled"] * stalled
    assert f"heartbeat {age} s ago" in found["detail"]


def test_a_run_that_is_complete_has_ended(run):
    run.started()
    (run.out / "grpo.metrics.2.jsonl").write_text('{"step":60,"data":{}}\n{"step":61,"da')
    found = run.facts()
    assert (found["state"], found["step"], found["expected_end"], found["warnings"]) == ("ended", 60, "", [])


def test_a_run_that_stopped_is_shown_with_the_cause_of_its_last_attempt(run):
    cause = "RUN STOPPED: rollout server 0 died\n"
    run.started(more=f"{ACTOR} {cause}{STARTED}{ACTOR} RUN STOPPED: reward 'gleu': it is [dead]\nbye\n")
    found = run.facts()
    assert (found["state"], found["detail"]) == ("stopped", "The run was stopped: reward 'gleu': it is [dead]")
    assert run.rules() == ["not_resumed"]
    run.started(more=cause + STARTED)  # killed: neither an earlier attempt's cause nor verl's warnings are its cause
    assert run.facts()["detail"] == "grpo ended after step 50"
    run.started(more="x" * 300_000 + "\nOutOfMemoryError: CUDA\n")
    assert run.facts()["detail"] == "grpo ended after step 50: OutOfMemoryError: CUDA"


def test_a_queued_job_needs_no_log(run, squeue):
    (run.out / "slurm_job").write_text("4711\n")
    asked = squeue("PENDING|2026-11-29T10:00:00|2026-11-30T10:00:00|Priority")
    found = run.facts()
    times = "from 2026-11-29T10:00:00 until 2026-11-30T10:00:00"
    assert (found["state"], found["detail"]) == ("queued", f"Slurm job 4711 pending (Priority), {times}")
    assert asked.read_text().split() == ["--noheader", "--jobs=4711", "--format=%T|%S|%e|%r"]
    assert (found["step"], found["total"], found["warnings"], found["newest_checkpoint"]) == (0, 0, [], None)


def test_a_requeued_job_is_no_stopped_run(run, squeue):
    run.started(more="RUN STOPPED: x\n")
    (run.out / "slurm_job").write_text("4711")
    squeue("REQUEUED|N/A|N/A|BeginTime")
    assert (run.facts()["state"], run.rules()) == ("queued", [])
    squeue("RUNNING|N/A|2026-11-30T10:00:00|None")
    assert run.facts()["state"] == "running"
    run.beat(400)
    assert run.rules() == ["stalled"]


@pytest.mark.parametrize(
    ("line", "exit_status"),
    [("", 0), ("slurm_load_jobs error: Invalid job id specified", 1), ("?", 0), ("TIMEOUT|N/A|N/A|None", 0)],
)
def test_a_job_that_slurm_does_not_know_says_nothing(run, squeue, line, exit_status):
    run.started()
    (run.out / "slurm_job").write_text("4711")
    squeue(line, exit_status)
    assert run.facts()["state"] == "stopped"


def test_a_slurm_that_does_not_answer_is_named(run, squeue):
    run.started()
    (run.out / "slurm_job").write_text("4711")
    squeue("slurm_load_jobs error: Unable to contact slurm controller", 1)
    found = run.facts()
    unknown = "Slurm does not say whether job 4711 runs: slurm_load_jobs error: Unable to contact slurm controller"
    assert (found["state"], found["detail"]) == ("stopped", f"grpo ended after step 50; {unknown}")
    squeue("slurm_load_jobs error: Invalid job id specified", 1)
    assert run.facts()["detail"] == "grpo ended after step 50"


def test_without_slurm_the_job_says_nothing(run, monkeypatch):
    (run.out / "slurm_job").write_text("4711")
    (run.out / "du").symlink_to(shutil.which("du"))
    monkeypatch.setenv("PATH", str(run.out))
    assert run.facts()["state"] == "not started"


def test_the_newest_checkpoint_is_a_complete_one(run):
    run.started()
    assert run.facts()["newest_checkpoint"] is None
    run.checkpoint(10)
    run.checkpoint(9)
    run.checkpoint(20, size=4)  # truncated
    run.checkpoint(30)
    (run.checkpoints / "global_step_30" / "manifest.json").write_text('{"files": {"act')
    run.checkpoint(40)
    (run.checkpoints / "global_step_40").rename(run.checkpoints / "global_step_40.damaged")  # moved aside: NaN, say
    assert run.facts()["newest_checkpoint"] == 10


def test_without_a_manifest_verl_s_own_word_counts(run):
    run.started().checkpoint(10, sealed=False)
    run.checkpoint(20, sealed=False)
    (run.checkpoints / "global_step_30").mkdir()  # being written
    assert run.facts()["newest_checkpoint"] == 20


def test_a_supervised_run_shows_loss_and_learning_rate(run, capsys):
    (run.out / "sft.log").write_text("Before FSDP, memory allocated (GB): 0.00\nTotal steps: 4, num_warmup_steps: 0\n")
    rows = ({"step": n, "data": {"train/loss": 2.0 - n, "train/lr": 1e-4 / n, "train/mfu": 0.0}} for n in (1, 2))
    (run.out / "sft.metrics.1.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = run.facts()
    assert (found["state"], found["step"], found["total"]) == ("stopped", 2, 4)
    assert {name: curve["latest"] for name, curve in found["curves"].items()} == {"train/loss": 0.0, "train/lr": 5e-5}
    assert status.main([str(run.out)]) == 1
    screen = capsys.readouterr().out
    assert "train/loss" in screen and "rollouts" not in screen


def test_failures_are_shown_with_their_share_and_causes(run):
    run.started()
    scorers = {"gleu": {"samples": 80, "failures": 13, "causes": {"OSError('down')": 13}}}
    row = {"step": 50, "part": "train", "rollouts": 128, "unscored": 13, "rewards": scorers}
    (run.checkpoints / "failures.jsonl").write_text(json.dumps(row) + '\n{"step": 51, "pa')
    lines = [json.loads(line) for line in RECORDED.read_text().splitlines()]
    for line in lines[-2:]:
        line["data"] |= {"reward/failed_share": 0.3, "reward/failed_rollouts": 13, "reward/x/rollouts": -13}
    (run.out / RECORDED.name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = run.facts()
    note = "13 of 128 rollouts without a reward (10.2 %): gleu 13 (OSError('down'))"
    assert found["failures"] == {"step 50:": note}
    assert found["causes"] == {"gleu": {"OSError('down')": 13}}
    assert found["unscored_share"] == 26 / 6400
    assert "scorer_failures" in run.rules()
    assert "scorer_failures" not in [warning["rule"] for warning in run.facts(max_rate=0.25)["warnings"]]


@pytest.mark.parametrize("named", ["'spec': '{spec}'", "'preset': None,\n                  'spec': '{spec}'"])
def test_the_failures_that_the_run_s_own_spec_allows_are_no_warning(run, tmp_path, named):
    spec = tmp_path / "spec.yaml"
    spec.write_text("report: [{name: gleu}]\nfailures: {max_rate: 0.25, window: 1}\n")
    run.started(more="'reward_kwargs': {" + named.format(spec=spec) + "}")
    assert status.Run(run.out).limits == {"max_rate": 0.25, "window": 1}
    spec.unlink()  # or it is on another machine
    assert status.Run(run.out).limits == {}


def test_checkpoints_that_are_kept_elsewhere_are_found(run, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    run.started(more=f"'default_local_dir': '{elsewhere}',\n")
    run.checkpoint(10)
    run.checkpoints.rename(elsewhere)
    assert run.facts()["newest_checkpoint"] == 10


@pytest.mark.parametrize("torn", ['{"step":51,"da', "", '{"step":51,"data":{"actor/kl_loss":NaN}}', "\n\n"])
def test_a_line_that_is_still_being_written_is_no_error(run, torn, capsys):
    run.started()
    with (run.out / RECORDED.name).open("a") as file:
        file.write(torn)
    (run.checkpoints / "heartbeat.json").write_text("")
    assert status.main([str(run.out), "--json"]) == 1
    assert "NaN" not in capsys.readouterr().out


def test_exit_status_and_json(run, capsys):
    run.started()
    with locks.lock(run.checkpoints / "run.lock", "taken"):
        assert status.main([str(run.out), "--json"]) == 0
    assert status.main([str(run.out), str(run.out), "--json"]) == 1
    healthy, *stopped = map(json.loads, filter(None, capsys.readouterr().out.splitlines()))
    score = healthy["curves"]["reward/report/score/mean"]
    assert score["latest"] == score["points"]["50"] == 0.604 and len(score["points"]) == 50
    assert [each["warnings"][0]["rule"] for each in stopped] == ["not_resumed"] * 2


@pytest.mark.parametrize("arguments", [["{out}"], ["{out}/nowhere"], [], ["{out}", "--watch", "0"], ["", "--json"]])
def test_without_a_run_there_the_status_is_2(run, capsys, arguments):
    try:
        found = status.main([argument.format(out=run.out) for argument in arguments])
        assert f"no run in {run.out}" in capsys.readouterr().err
    except SystemExit as error:
        found = error.code
    assert found == 2


def test_runs_below_the_folder_are_offered(tmp_path, capsys):
    for kind in ("sft", "grpo"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / f"{kind}.log").touch()
    assert status.main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.endswith(f"Give {tmp_path / 'grpo'} or {tmp_path / 'sft'}.\n")


def test_an_empty_log_is_a_run_that_has_not_started(run):
    (run.out / "grpo.log").touch()
    assert (run.facts()["state"], run.rules()) == ("not started", [])


def test_the_screen_shows_files_as_text(run, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    run.started(more="RUN STOPPED: [red]not [/nothing] markup\x1b]0;title\x07\x1b[31m\n")
    assert status.main([str(run.out)]) == 1
    screen = capsys.readouterr().out
    assert "[red]not [/nothing] markup" in screen and "\x1b" not in screen and "\x07" not in screen
    assert "not_resumed: stopped in step 50 of 60." in screen
    score = next(line for line in screen.splitlines() if "report/score" in line and "validation" not in line)
    assert all(text in score for text in ("0.233", "0.765", "49", "0.604", "▁", "█"))
    assert "validation/report/score" in screen and "step 11.01, " in screen and "testing 6.15, " in screen


def test_watching_draws_again_until_ctrl_c(run, capsys, monkeypatch):
    run.started()
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        shutil.rmtree(run.out / "checkpoints", ignore_errors=True)
        if len(slept) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", sleep)
    assert status.main([str(run.out), "--watch", "7", "--json"]) == 1
    assert slept == [7, 7, 7] and len(capsys.readouterr().out.strip().splitlines()) == 3


def test_the_command_starts_without_torch_and_verl(run):
    code = "import sys; from recipe.cxr_grpo.status import main; main(sys.argv[1:])"
    code += "; print({'torch', 'verl', 'ray'} & {*sys.modules})"
    run.started()
    done = subprocess.run([sys.executable, "-c", code, str(run.out)], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n")
