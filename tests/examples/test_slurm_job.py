"""examples/slurm/train.sbatch with stand-ins for Slurm's commands: what is refused, started, handed over, requeued."""

import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SLURM = ROOT / "examples" / "slurm"
GPU = {"PROFILE": "node_8x80g", "SLURM_GPUS_ON_NODE": "8"}
PAPER = {"PROFILE": "paper_32xgh200", "SLURM_GPUS_ON_NODE": "4"}


@pytest.mark.parametrize(
    ("arguments", "env", "message"),
    [
        (["sft"], {"SLURM_JOB_ID": ""}, "this is for Slurm: sbatch examples/slurm/train.sbatch sft"),
        (["sft"], {"VENV": "/nowhere"}, "no virtual environment /nowhere: run bash examples/install.sh /nowhere gpu"),
        (["sft"], {"DATA": ""}, "DATA is not set"),
        (["radvlm"], {}, "no run radvlm in"),
        (["launch", "--out", "x"], {}, "after launch comes grpo or sft, got '--out'"),
        (["launch", "grpo"], {}, "launch needs --out FOLDER"),
        (["sft"], PAPER, r"the job has 1 nodes, and trainer.nnodes=8: sbatch --nodes=8, or set trainer.nnodes"),
        (["sft"], GPU | {"NODES": "2"}, "the job has 2 nodes, and trainer.nnodes=1: sbatch --nodes=1"),
        (["sft"], GPU | {"SLURM_GPUS_ON_NODE": "2"}, "the node has 2 GPUs, .*: sbatch --gpus-per-node=8"),
        (["sft"], GPU | {"SLURM_GPUS_ON_NODE": ""}, "the node has 0 GPUs"),
        (["radvlm_report"], GPU | {"SCORERS": "yes"}, "sbatch --gpus-per-node=9.*or ask for 1 more nodes for scorers"),
        (["sft"], {"MINUTES": "4"}, r"the job ends in [34] minutes, .*: sbatch --time=HOURS:MINUTES:00, 5 minutes"),
        (["sft"], GPU | {"MINUTES": "20"}, "30 minutes at least"),
        (["sft"], {"CONTAINER": "docker:x"}, "CONTAINER=docker:x is none of"),
    ],
)
def test_what_a_job_lacks_is_named_with_its_remedy(job, arguments, env, message):
    done, calls, _ = job(*arguments, **env)
    assert done.returncode == 2 and "srun" not in calls
    assert re.search(rf"(train.sbatch|run.sh): .*{message}", done.stderr), done.stderr


def test_slurm_is_asked_again_when_its_controller_closes_the_connection(job, place):
    (place / "runs" / "sft").mkdir(parents=True)
    (place / "runs" / "sft" / "slurm_job").write_text("41")
    done, _, _ = job("sft", QUEUE="41", DEAF="%i")
    assert done.returncode == 2 and (place / "calls.deaf").exists()
    assert "job 41 is at work in" in done.stderr
    (place / "calls.deaf").unlink()
    done, _, _ = job("sft", MINUTES="4", DEAF="%e")
    assert done.returncode == 2 and (place / "calls.deaf").exists()
    assert "before a first step" in done.stderr


def test_a_controller_that_stays_away_ends_the_job(job, place):
    (place / "bin" / "sleep").symlink_to("/bin/true")
    done, calls, _ = job("sft", AWAY="Unable to contact slurm controller")
    assert done.returncode == 2 and "srun" not in calls
    assert re.search(
        r"train.sbatch: 'squeue .* %e' failed six times, the last time with status 1: slurm_load_jobs error: Unable",
        done.stderr,
    )


def test_a_job_elsewhere_than_in_the_repository_is_refused(job, place):
    done, _, _ = job("sft", cwd=place)
    assert done.returncode == 2 and "submit from it, or with sbatch --chdir=REPOSITORY" in done.stderr


def test_help_needs_no_slurm():
    done = subprocess.run(["bash", str(SLURM / "train.sbatch"), "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "usage: sbatch" in done.stdout


def test_a_run_on_one_node(job):
    done, calls, out = job(
        "radvlm_grounding", "trainer.save_freq=7", SLURM_GPUS_ON_NODE="8", GPUS="yes", PROFILE="node_8x80g"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    words = next(line for line in calls.splitlines() if line.startswith("python -m recipe.cxr_grpo.launch")).split()
    assert {"trainer.save_freq=7", "++ray_kwargs.ray_init.address=local", "++ray_kwargs.ray_init.num_cpus=36"} <= {
        *words
    }
    assert "ROCR_VISIBLE_DEVICES=" not in calls and "CUDA_VISIBLE_DEVICES=0,1,2,3" in calls  # as Slurm has it
    assert "ray start" not in calls
    assert f"WANDB_RUN_ID={(out / 'tracker_id').read_text().strip()}" in calls and "WANDB_RESUME=allow" in calls
    (end,) = re.findall(r"SLURM_JOB_END_TIME=(\d+)", calls)[-1:]
    assert abs(int(end) - time.time() - 36000) < 120
    assert (out / "slurm_job").read_text() == (out / "finished").read_text()


def test_attempts_have_logs_of_their_own_and_one_name_in_trackers(job):
    job("sft", DO="echo first; exit 3")
    done, _, out = job("sft", SLURM_JOB_ID="77", DO="echo second; exit 4")
    assert done.returncode == 4 and "train ended with status 4" in done.stdout and "second" in done.stdout
    assert "first" in (out / "logs" / "attempt_0" / "train.log").read_text()
    assert (out / "logs" / "latest").resolve().name == "attempt_1"
    assert (out / "slurm_job").read_text() == "77\n" and "77" not in (out / "tracker_id").read_text()
    assert not (out / "finished").exists()


def test_a_run_of_launch_s_own_is_found_by_its_folder(job, place):
    done, calls, _ = job("launch", "grpo", "--out", place / "mine", "data.seed=3", DO="exit 0")
    assert done.returncode == 0, done.stderr
    assert f"launch grpo --out {place}/mine data.seed=3 ++ray_kwargs.ray_init.address=local" in calls
    assert (place / "mine" / "finished").exists()


def test_a_run_that_saved_and_stopped_is_requeued(job):
    done, calls, out = job("radvlm_grounding", DO="exit 75")
    assert done.returncode == 75 and re.search(r"scontrol requeue 1\d\d$", calls, flags=re.MULTILINE)
    assert not (out / "finished").exists()


@pytest.mark.parametrize("saved", [True, False])
def test_supervised_training_is_requeued_if_the_time_limit_left_it_a_new_checkpoint(place, environment, saved):
    tracker = place / "runs" / "sft" / "checkpoints" / "latest_checkpointed_iteration.txt"
    tracker.parent.mkdir(parents=True)
    tracker.write_text("100")
    save = f"echo 200 >{tracker}; " if saved else ""
    env = environment(**{"DO": f"{save}touch {place}/ready; exec sleep 60"})
    process = subprocess.Popen(
        ["bash", str(SLURM / "train.sbatch"), "sft"], cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True
    )
    until(lambda: (place / "ready").exists())
    process.send_signal(signal.SIGUSR1)
    output, _ = process.communicate(timeout=60)
    assert ("scontrol requeue" in (place / "calls").read_text()) is saved
    assert (process.returncode == 75) is saved
    assert ("no checkpoint was saved within the time limit: sbatch --time=MORE" in output) is not saved


def until(true, seconds=60):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_several_nodes_have_a_ray_of_the_job_that_launch_joins(job):
    done, calls, _ = job("radvlm_grounding", NODES="8", GPUS="yes", **PAPER)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = calls.splitlines()
    head, *others = [line for line in lines if line.startswith("ray start")]
    port = re.search(r"--head --node-ip-address=127.0.0.1 --port=(\d+)", head)[1]
    assert 20000 <= int(port) < 30000
    assert len(others) <= 7 and all(f"--address=127.0.0.1:{port} " in line for line in others)
    assert all(" --num-cpus=36 --num-gpus=4 " in line and "--temp-dir=/tmp/cxr-" in line for line in (head, *others))
    assert not any("ray stop" in line for line in lines)
    train = next(i for i, line in enumerate(lines) if line.startswith("python -m recipe.cxr_grpo.launch"))
    assert "++ray_kwargs.ray_init.address=auto" in lines[train] and f"RAY_ADDRESS=127.0.0.1:{port}" in lines[train:]
    tokens = {line for line in lines if line.startswith("RAY_AUTH_TOKEN=")}
    assert re.fullmatch(r"RAY_AUTH_TOKEN=[0-9a-f]{64}", *tokens)  # all have the same
    assert lines.count("RAY_AUTH_MODE=token") >= len([head, *others, "launch"])
    steps = [line for line in lines if line.startswith("srun")]
    assert any("--nodelist=n1,n2,n3,n4,n5,n6,n7,n8 " in line and "step.sh ray 127.0.0.1" in line for line in steps)
    assert any("--nodelist=n1 " in line and "step.sh train" in line for line in steps)


def test_supervised_training_on_several_nodes_is_started_on_each(job):
    done, calls, _ = job("sft", NODES="8", **PAPER)
    assert done.returncode == 0, done.stderr
    assert calls.count("python -m recipe.cxr_grpo.launch sft") == 8
    assert "MASTER_ADDR=127.0.0.1" in calls and "ray start" not in calls


JUDGED = {"SCORERS": "yes", "JUDGE": "my/judge", "GPUS": "yes"}


def test_scorers_and_judge_answer_before_the_training_starts(job):
    done, calls, out = job("radvlm_report", NODES="10", **PAPER, **JUDGED)
    assert done.returncode == 0, done.stdout + done.stderr
    steps = [re.search(r"--nodelist=(\S+) .* (\w+) \d+ \d+ 127", line) for line in calls.splitlines() if "srun" in line]
    assert {match.groups() for match in steps if match} == {("n9", "scorers"), ("n10", "judge")}
    assert "replicas: 4, gpus: 1" in (out / "logs" / "latest" / "scorers.yaml").read_text()
    assert "--data-parallel-size 4" in calls
    training = calls[calls.index("python -m recipe.cxr_grpo.launch") :]
    assert re.search(r"CXR_GRPO_SCORERS_URL=http://127.0.0.1:2\d\d90\n", training)
    assert re.search(r"CXR_GRPO_JUDGE_URL=http://127.0.0.1:2\d\d91/v1\n", training)
    assert "CXR_GRPO_JUDGE_MODEL=my/judge" in training and "CXR_GRPO_JUDGE_ALLOW_HTTP=yes" in training


def test_on_the_first_node_each_has_gpus_that_the_trainer_leaves(job):
    env = GPU | {"SLURM_GPUS_ON_NODE": "4"} | JUDGED
    done, calls, _ = job("radvlm_report", "trainer.n_gpus_per_node=1", **env)
    assert done.returncode == 0, done.stdout + done.stderr
    seen = {
        name: re.search(rf"^{name} .*\nCUDA_VISIBLE_DEVICES=(.*)$", calls, flags=re.MULTILINE)[1]
        for name in ("serve", "vllm")
    }
    assert seen == {"serve": "1", "vllm": "2,3"}


def test_a_judge_that_dies_ends_the_job(job):
    done, calls, _ = job("radvlm_report", NODES="9", DEAD_JUDGE="yes", JUDGE="my/judge", **PAPER)
    assert done.returncode == 1 and "judge ended before it answered; see" in done.stdout
    assert "recipe.cxr_grpo.launch" not in calls


def test_a_part_that_dies_later_ends_the_others(job, place):
    kill = f"kill $(cat {place}/calls.judge); exec sleep 60"
    done, _, _ = job("radvlm_report", NODES="9", JUDGE="my/judge", DO=kill, **PAPER)
    assert done.returncode == signal.SIGTERM and "judge ended with status 15" in done.stdout


def test_everything_runs_in_the_container(job, place):
    done, calls, _ = job("radvlm_grounding", CONTAINER="apptainer:image.sif", MOUNTS=f"{place}/bin")
    assert done.returncode == 0, done.stderr
    mounts = [f"{folder}:{folder}" for folder in (ROOT, place / "runs", place / "data", place / "model", place / "bin")]
    assert f"apptainer exec --nv --bind {','.join(mounts)} image.sif bash {SLURM}/step.sh train" in calls
    _, calls, _ = job("radvlm_grounding", CONTAINER="pyxis:image")
    assert f"--container-image=image --container-mounts={','.join(mounts[:-1])} env -u" in calls
