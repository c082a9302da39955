"""examples/slurm on a real Slurm of two nodes on this machine: tiny runs on the CPU, minutes."""

import contextlib
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
STEPS = 5
# One line a job; {grpo} is what makes GRPO small. The last training shares each update's 8 answers between two nodes.
JOBS = """
smoke            -     1 scorers train.sbatch qwen3vl_report trainer.total_training_steps=2 {grpo}
sft              smoke 1 -       train.sbatch sft trainer.nnodes=2 trainer.total_training_steps=2
radvlm_grounding sft   1 -       train.sbatch radvlm_grounding trainer.nnodes=2 trainer.total_training_steps={steps} \
{grpo} trainer.save_freq={steps} \
actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=4 actor_rollout_ref.rollout.agent.num_workers=2
answers_radvlm   radvlm_grounding 1 - evaluate.sbatch radvlm_grounding radvlm_rl RadVLM+RL grounding --max-tokens 40
tables           answers_* 1 -   evaluate.sbatch tables
"""
GRPO = "actor_rollout_ref.rollout.name=hf trainer.test_freq=-1 trainer.val_before_train=false trainer.save_freq=-1"


class Slurm:
    """Slurm's commands by ``slurm(*command, **environment)``, which returns the output, and the folder of all runs."""

    def __init__(self, env, spaces, runs):
        self.env, self.spaces, self.runs = env, spaces, runs
        self.controller_log = Path(env["SLURM_CONF"]).parent / "slurmctld.log"

    def __call__(self, *command, **given):
        done = subprocess.run([*command], cwd=ROOT, env=self.env | given, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: status {done.returncode}, {done.stderr}{printed(self.controller_log)}"
        return done.stdout.strip()

    def ask(self, *command):
        """The same as the job scripts ask Slurm: again and again, since a busy controller closes connections."""
        script = 'refuse() { echo "$1" >&2; exit 2; }; source examples/slurm/ask.sh; ask "$@"'
        return self("bash", "-c", script, "bash", *command)

    def state(self, job):
        """What Slurm says of a job."""
        return dict(re.findall(r"(\w+)=(\S*)", self.ask("scontrol", "show", "job", job, "--oneliner")))

    def end(self, job, watch=lambda: None):
        """What Slurm says of a job at its end; ``watch`` is called until then."""
        ended = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")
        return until(lambda: watch() or ((said := self.state(job))["JobState"] in ended and said), f"end of job {job}")

    def processes(self, name=""):
        """Node and name of the jobs' processes, by id here: those whose name has ``name``."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # gone
                node = self.spaces.get(os.readlink(folder / "ns" / "pid"))
                title = title_of(folder.name)
                daemon = title.startswith(("slurmd ", "bash -euc")) or not title
                if node and name in title and not daemon:
                    found[int(folder.name)] = node, title
        return found


def title_of(process):
    return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")


def until(true, what, seconds=600):
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, f"no {what} in {seconds} s"
        time.sleep(0.2)
    return found


@pytest.fixture(scope="module")
def slurm(tmp_path_factory, text_models):
    if why := private_slurm.missing() or (None if importlib.util.find_spec("verl") else "no verl"):
        pytest.skip(why)
    root = tmp_path_factory.mktemp("slurm")
    draw_films(root)
    tiny_text_models.put_in_cache(text_models, root / "hub")
    places = {"DATA": root / "data", "RUNS": root / "runs", "VENV": sys.prefix, "PYTHONPATH": ROOT}
    places |= {"HF_HUB_CACHE": root / "hub", "XDG_CACHE_HOME": root / "cache"}
    shared = [ROOT, Path(sys.prefix).resolve(), Path(sys.base_prefix), tmp_path_factory.getbasetemp()]
    with private_slurm.cluster(root / "slurm", shared) as (env, spaces):
        env |= {key: str(value) for key, value in places.items()} | {"PROFILE": "cpu", "HF_HUB_OFFLINE": "1"}
        yield Slurm(env, spaces, root / "runs")


def draw_films(root):
    """Demo films as the data of the runs, by task."""
    drawn = ["--patients", "24", "--shares", "0.6,0.2,0.2", "--max-pixels", "16384"]
    assert data_prep(["demo", "--out", str(root / "films"), *drawn]) == 0
    for folder, task in {"report_hint": "report", "grounding": "grounding", "sft": ""}.items():
        (root / "data" / folder).mkdir(parents=True)
        for split in ("train", "val", "test") if task else ("sft_train", "sft_val"):
            rows = pq.read_table(root / "films" / f"{split}.parquet")
            if task:
                rows = rows.filter(pa.array([info["task"] == task for info in rows["extra_info"].to_pylist()]))
            pq.write_table(rows, root / "data" / folder / f"{split}.parquet")


def logged(out):
    """What the attempts at a run logged, by step; no step twice."""
    found = {}
    for path in sorted(out.glob("grpo.metrics.*.jsonl")):
        for row in map(json.loads, path.read_text().split("\n")[:-1]):
            assert row["step"] not in found
            found[row["step"]] = row["data"]
    found.pop(0, None)
    return found


def prompts(out):
    """The ids of each step's prompts."""
    ids = {}
    for step in range(1, STEPS + 1):
        with (out / "rollouts" / f"{step}.jsonl").open() as file:
            ids[step] = sorted({json.loads(line)["id"] for line in file})
    return ids


def printed(path):
    return path.read_text()[-3000:]


class KillScorer:
    """Called again and again, kills the process that computes neural rewards, once the first step is logged."""

    def __init__(self, slurm, out):
        self.slurm, self.out, self.killed = slurm, out, None

    def __call__(self):
        if self.killed is None and logged(self.out):
            (self.killed,) = self.slurm.processes("ray::ServeReplica:cxr-grpo-scorers")
            os.kill(self.killed, signal.SIGKILL)


class WhatRuns:
    """Called again and again, notes what Ray's processes call themselves and do, and on which nodes."""

    def __init__(self, slurm):
        self.slurm, self.seen = slurm, set()

    def __call__(self):
        found = self.slurm.processes("ray::")
        self.seen |= {*found.values()}
        end = time.monotonic() + 10
        with contextlib.suppress(OSError):  # one is gone: who is there now?
            while any(title.startswith("ray::HFServer") for _, title in found.values()) and time.monotonic() < end:
                # Without a pause of seconds between two looks: they answer within a tenth of a second.
                self.seen |= {(node, title_of(number)) for number, (node, _) in found.items()}
                time.sleep(0.01)


@pytest.fixture(scope="module")
def matrix(slurm):
    """The jobs that submit_paper.sh submitted at once, at their end: what was seen of each meanwhile."""
    table = slurm.runs.parent / "jobs.tsv"
    table.write_text(JOBS.format(grpo=GRPO, steps=STEPS))
    submit = ("bash", "examples/slurm/submit_paper.sh")
    said = slurm(*submit, JOBS=str(table), MODEL=str(MODEL))
    jobs = dict(re.findall(r"^# (\w+): job (\d+),", said, flags=re.MULTILINE))
    assert [*jobs] == ["smoke", "sft", "radvlm_grounding", "answers_radvlm", "tables"]
    assert slurm.state(jobs["radvlm_grounding"])["Reason"] == "Dependency"
    watches = {"smoke": KillScorer(slurm, slurm.runs / "smoke" / "qwen3vl_report"), "sft": lambda: None}
    watches |= {"radvlm_grounding": WhatRuns(slurm), "answers_radvlm": lambda: None, "tables": lambda: None}
    for name, job in jobs.items():
        state = slurm.end(job, watches[name])["JobState"]
        assert state == "COMPLETED", f"{name}: {printed(slurm.runs / 'slurm' / f'{name}-{job}.out')}"
    again = slurm(*submit, JOBS=str(table), MODEL=str(MODEL))
    assert re.findall(r": (.*)$", again, flags=re.MULTILINE) == ["complete"] * 5
    return watches


def test_a_scorer_that_is_killed_is_replaced(slurm, matrix):
    assert matrix["smoke"].killed
    steps = logged(slurm.runs / "smoke" / "qwen3vl_report")
    assert [steps[step]["reward/failed_rollouts"] for step in (1, 2)] == [0, 0]


def test_supervised_training_has_a_process_on_each_node(slurm, matrix):
    saved = slurm.runs / "sft" / "checkpoints" / "global_step_2"
    assert len([*saved.glob("model_world_size_2_rank_*.pt")]) == 2


def test_grpo_samples_on_both_nodes(slurm, matrix):
    assert [*logged(slurm.runs / "radvlm_grounding")] == [*range(1, STEPS + 1)]
    seen = matrix["radvlm_grounding"].seen
    for work in ("ray::HFServer.generate", "ray::AgentLoopWorkerTQ", "ray::WorkerDict.actor_rollout_ref_update_actor"):
        assert {node for node, title in seen if title.startswith(work)} == {"n1", "n2"}, sorted(seen)


def test_one_command_goes_from_training_to_tables(slurm, matrix):
    results = json.loads((slurm.runs / "results" / "RadVLM+RL" / "demo-grounding" / "own" / "results.json").read_text())
    assert results["samples"] > 0 == results["missing"] + results["failed"] and results["decoding"]["temperature"] == 0
    text = (slurm.runs / "tables" / "grounding.md").read_text()
    assert re.search(r"\| RadVLM\+RL \| mAP@0.5 \(paper\) \| [\d.]+ \(.*own", text.replace("\n", " "))


def test_a_run_goes_on_after_its_time_limit_and_after_its_death(slurm, matrix, tmp_path):
    runs = slurm.runs / "disturbed"
    out = runs / "radvlm_grounding"
    text = tmp_path / "job.out"

    def submit():
        overrides = [f"trainer.total_training_steps={STEPS}", *GRPO.split()]
        options = ["--parsable", "--cpus-per-task=4", "--time=60", f"--output={text}"]
        command = ["sbatch", *options, "examples/slurm/train.sbatch", "radvlm_grounding", *overrides]
        return slurm(*command, RUNS=str(runs), START=str(MODEL))

    def kill(name, when):
        """Kill -9 a process of this name, once there is one of the name ``when``."""
        until(lambda: slurm.processes(when), when)
        (number, *_) = slurm.processes(name)
        os.kill(number, signal.SIGKILL)

    def all_gone():
        return until(lambda: not slurm.processes(), "end of all processes", 60)

    job = submit()
    until(lambda: logged(out), "step")
    slurm.ask("scancel", "--signal=USR1", "--batch", job)  # as --signal does before the time limit
    until(lambda: slurm.state(job)["Restarts"] == "1", "requeue")
    assert "train ended with status 75" in text.read_text()
    saved = max(logged(out))
    assert 0 < saved < STEPS
    assert (out / "checkpoints" / "latest_checkpointed_iteration.txt").read_text() == str(saved)

    kill("ray::WorkerDict", when="ray::HFServer")
    assert slurm.end(job)["JobState"] == "FAILED"
    assert "train ended with status 1; see" in text.read_text()
    assert all_gone()

    job = submit()
    kill("recipe.cxr_grpo.launch", when="raylet")
    said = slurm.end(job)
    assert (said["JobState"], said["ExitCode"]) == ("FAILED", "137:0")
    assert "train ended with status 137; see" in text.read_text()
    assert all_gone()

    job = submit()
    until(lambda: slurm.processes("raylet"), "Ray")
    slurm.ask("scancel", job)
    assert slurm.end(job)["JobState"] == "CANCELLED"
    assert all_gone()

    job = submit()
    assert slurm.end(job)["JobState"] == "COMPLETED", printed(text)
    assert sorted(logged(out)) == [*range(1, STEPS + 1)]
    assert prompts(out) == prompts(slurm.runs / "radvlm_grounding")
    assert (out / "logs" / "latest").resolve().name == "attempt_4"
