"""examples/slurm on a real Slurm of two nodes on this machine: tiny runs on the CPU, minutes."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import private_slurm
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_text_models

from data_prep.cli import main as data_prep

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]
MODEL = ROOT / "recipe" / "cxr_grpo" / "demo" / "model"
STEPS = 4
# One line a job; {grpo} is what makes GRPO small.
JOBS = """
smoke            -     1 scorers train.sbatch qwen3vl_report trainer.total_training_steps=2 {grpo}
sft              smoke 1 -       train.sbatch sft trainer.nnodes=2 trainer.total_training_steps=2
radvlm_grounding sft   1 -       train.sbatch radvlm_grounding trainer.total_training_steps={steps} {grpo}
"""
GRPO = "actor_rollout_ref.rollout.name=hf trainer.test_freq=-1 trainer.val_before_train=false trainer.save_freq=-1"


@pytest.fixture(scope="module")
def slurm(tmp_path_factory, text_models):
    """Slurm's commands by `slurm(*command, **environment)`, which returns the output; the runs' folder is `runs`."""
    if why := private_slurm.missing() or (None if importlib.util.find_spec("verl") else "no verl"):
        pytest.skip(why)
    root = tmp_path_factory.mktemp("slurm")
    draw_films(root)
    tiny_text_models.put_in_cache(text_models, root / "hub")
    places = {"DATA": root / "data", "RUNS": root / "runs", "VENV": sys.prefix, "PYTHONPATH": ROOT}
    places |= {"HF_HUB_CACHE": root / "hub", "XDG_CACHE_HOME": root / "cache"}
    with private_slurm.cluster(root / "slurm") as env:
        env |= {key: str(value) for key, value in places.items()} | {"PROFILE": "cpu", "HF_HUB_OFFLINE": "1"}

        def run(*command, **given):
            done = subprocess.run([*command], cwd=ROOT, env=env | given, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            return done.stdout.strip()

        run.runs = root / "runs"
        yield run


def draw_films(root):
    """Demo films as the data of the runs, by task."""
    drawn = ["demo", "--out", str(root / "films"), "--patients", "16", "--shares", "0.8,0.2,0", "--max-pixels", "16384"]
    assert data_prep(drawn) == 0
    for folder, task in {"report_hint": "report", "grounding": "grounding", "sft": ""}.items():
        (root / "data" / folder).mkdir(parents=True)
        for split in ("train", "val") if task else ("sft_train", "sft_val"):
            rows = pq.read_table(root / "films" / f"{split}.parquet")
            if task:
                rows = rows.filter(pa.array([info["task"] == task for info in rows["extra_info"].to_pylist()]))
            pq.write_table(rows, root / "data" / folder / f"{split}.parquet")


def state(slurm, job):
    """What Slurm says of a job."""
    return dict(re.findall(r"(\w+)=(\S*)", slurm("scontrol", "show", "job", job, "--oneliner")))


def until(true, what, seconds=400):
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, f"no {what} in {seconds} s"
        time.sleep(0.3)
    return found


def end(slurm, job):
    """What Slurm says of a job at its end."""
    ended = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")
    return until(lambda: (said := state(slurm, job))["JobState"] in ended and said, f"end of job {job}")


def processes(slurm):
    """The processes of all jobs: those with the runs' folder in their environment."""
    mark = f"RUNS={slurm.runs}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if any(part.startswith(mark) for part in (folder / "environ").read_bytes().split(b"\0")):
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ")[:100])
        except OSError:
            continue
    return found


def steps(out):
    """The training steps that each attempt at a run logged."""
    found = []
    for path in sorted(out.glob("grpo.metrics.*.jsonl")):
        found += [json.loads(line)["step"] for line in path.read_text().splitlines()]
    return [step for step in found if step]


def prompts(out):
    """The ids of each step's prompts."""
    ids = {}
    for step in range(1, STEPS + 1):
        with (out / "rollouts" / f"{step}.jsonl").open() as file:
            ids[step] = sorted({json.loads(line)["id"] for line in file})
    return ids


@pytest.fixture(scope="module")
def matrix(slurm):
    """The folder of three jobs that submit_paper.sh submitted at once, and what it said."""
    table = slurm.runs.parent / "jobs.tsv"
    table.write_text(JOBS.format(grpo=GRPO, steps=STEPS))
    said = slurm("bash", "examples/slurm/submit_paper.sh", JOBS=str(table), MODEL=str(MODEL))
    jobs = re.findall(r"^# (\w+): job (\d+),", said, flags=re.MULTILINE)
    assert [name for name, _ in jobs] == ["smoke", "sft", "radvlm_grounding"]
    assert state(slurm, jobs[-1][1])["Reason"] == "Dependency"
    for name, job in jobs:
        assert end(slurm, job)["JobState"] == "COMPLETED", (
            f"{name}: {output(slurm.runs / 'slurm' / f'{name}-{job}.out')}"
        )
    again = slurm("bash", "examples/slurm/submit_paper.sh", JOBS=str(table), MODEL=str(MODEL))
    assert re.findall(r": (.*)$", again, flags=re.MULTILINE) == ["complete"] * 3
    return slurm.runs


def output(path):
    return path.read_text()[-3000:]


def test_jobs_run_one_after_the_other(matrix):
    assert set(steps(matrix / "smoke" / "qwen3vl_report")) == {1, 2}
    assert (matrix / "smoke" / "qwen3vl_report" / "logs" / "latest" / "scorers.log").stat().st_size
    shards = (matrix / "sft" / "checkpoints" / "global_step_2").glob("model_world_size_2_rank_*.pt")
    assert len([*shards]) == 2  # one process on each node
    assert steps(matrix / "radvlm_grounding") == [*range(1, STEPS + 1)]


def test_a_run_goes_on_after_its_time_limit_and_after_its_death(slurm, matrix, tmp_path):
    runs = slurm.runs / "disturbed"
    out = runs / "radvlm_grounding"
    printed = tmp_path / "job.out"

    def submit():
        overrides = [f"trainer.total_training_steps={STEPS}", *GRPO.split()]
        options = ["--parsable", "--cpus-per-task=4", "--time=60", f"--output={printed}"]
        command = ["sbatch", *options, "examples/slurm/train.sbatch", "radvlm_grounding", *overrides]
        return slurm(*command, RUNS=str(runs), START=str(MODEL))

    def launch(attempt):
        """The process id of an attempt's launch, once its Ray runs."""
        place = out / "logs" / f"attempt_{attempt}" / "train.pid"
        until(
            lambda: place.exists() and any(b"raylet" in command for command in processes(slurm)), f"attempt {attempt}"
        )
        return int(place.read_text())

    job = submit()
    until(lambda: steps(out), "step")
    slurm("scancel", "--signal=USR1", "--batch", job)  # as --signal does before the time limit
    until(lambda: state(slurm, job)["Restarts"] == "1", "requeue")
    launch(1)
    assert "train ended with status 75" in printed.read_text()
    saved = max(steps(out))
    assert 0 < saved < STEPS
    assert (out / "checkpoints" / "latest_checkpointed_iteration.txt").read_text() == str(saved)

    slurm("scancel", job)
    assert end(slurm, job)["JobState"] == "CANCELLED"
    until(lambda: not processes(slurm), "end of all processes", 60)

    job = submit()
    os.kill(launch(2), signal.SIGKILL)
    said = end(slurm, job)
    assert (said["JobState"], said["ExitCode"]) == ("FAILED", "137:0")
    assert "train ended with status 137; see" in printed.read_text()
    until(lambda: not processes(slurm), "end of all processes", 60)

    job = submit()
    assert end(slurm, job)["JobState"] == "COMPLETED", output(printed)
    assert sorted(steps(out)) == [*range(1, STEPS + 1)]
    assert prompts(out) == prompts(matrix / "radvlm_grounding")
    assert (out / "logs" / "latest").resolve().name == "attempt_3"
