"""Break GRPO runs at seeded random times in all the ways that clusters do, and check what becomes of each run.

Each round starts a run of 12 steps on the CPU and does one thing to it: kills -9 the vLLM engine, a reward worker, a
scorer replica, verl's TaskRunner, the raylet or launch, fills the disk, truncates the newest checkpoint, or lets a
share of a scorer's answers fail. The run must go on, go on from its last checkpoint, or end and name the cause.

    python tests/chaos.py --rounds 30 --seed 0

needs the CPU extra, and root for the full disk (a tmpfs). A round takes two to four minutes on two cores.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

# The packages before the folders of tests that are named after them.
sys.path.insert(0, str(Path(__file__).parents[1]))

import tiny_checkpoints
import tiny_text_models

from data_prep.cli import main as data_prep
from recipe.cxr_grpo.demo import pretraining
from recipe.cxr_grpo.results.metrics import read_metrics
from reward_fns.scoring import Rollout, score_batch
from reward_fns.spec import of_rewards

STEPS = 12
REACTION = 60.0  # seconds after the strike in which launch must print a step or a cause, or everything must have ended
SILENCE = 300.0  # seconds without a line in the log or on the terminal after which a run counts as hanging
TAG = "CXR_GRPO_CHAOS"  # environment variable that marks every process of a round
MOOD = "CXR_GRPO_CHAOS_MOOD"  # environment variable: the file with the share of answers that fail
REWARD = """
import os
import random
from pathlib import Path

from reward_fns import reward


@reward("chaos", task="report", range=(0.0, 1.0))
def chaos(prediction: str, reference: str) -> float:
    if random.random() < float(Path(os.environ["CXR_GRPO_CHAOS_MOOD"]).read_text() or 0):
        raise OSError("the scorer is away")
    return len(prediction) % 7 / 7
"""
# What each kind kills: how the command line of the process begins. The rest is in `Round.strike`.
KILLS = {
    "engine": "VLLM::EngineCore",
    "reward worker": "ray::RewardLoopWorker",
    "replica": "ray::ServeReplica",
    "trainer": "ray::TaskRunner",
    "raylet": "raylet",
}
KINDS = (*KILLS, "launch", "disk", "checkpoint", "failures")


@dataclass
class Round:
    """One run and what is done to it."""

    kind: str
    folder: Path  # where the run writes
    data: Path
    step: int  # strike once this step is done,
    delay: float  # after so many seconds
    rate: float = 0.0  # for failures: share of the scorer's answers
    replica_spec: dict[str, Any] | None = None
    struck: float | None = None
    reaction: float | None = None  # seconds from the strike to the next line on the terminal, or the end of the run
    attempts: int = 0
    status: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.tag, self.out, self.side = uuid.uuid4().hex, self.folder / "run", self.folder / "side"
        for path in (self.out, self.side):
            path.mkdir(parents=True)
        (self.side / "chaos_reward.py").write_text(REWARD)
        self.mood = self.side / "mood"
        self.mood.write_text("0")
        reports: dict[str, Any] = {"report": [{"name": "chaos", "path": str(self.side / "chaos_reward.py")}]}
        spec = {**reports, **(self.replica_spec or {}), "grounding": [{"name": "box_soft_f1"}]}
        (self.side / "spec.yaml").write_text(json.dumps(spec | {"failures": {"retries": 2, "backoff": 0.1}}))

    def command(self, restarts: int) -> list[str]:
        """The command line of the run."""
        kwargs = "reward.custom_reward_function.reward_kwargs."
        overrides = [
            f"data.train_files={self.data}/train.parquet", f"data.val_files={self.data}/val.parquet",
            f"actor_rollout_ref.model.path={pretraining.MODEL}", "data.train_batch_size=4",
            "actor_rollout_ref.actor.ppo_mini_batch_size=4", "actor_rollout_ref.rollout.n=4",
            "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=16", f"trainer.total_training_steps={STEPS}",
            "trainer.val_before_train=false", "trainer.test_freq=-1", "trainer.save_freq=2",
            f"{kwargs}preset=null", f"{kwargs}spec={self.side}/spec.yaml",
        ]  # fmt: skip
        command = [sys.executable, "-m", "recipe.cxr_grpo.launch", "grpo", "--no-merge", "--out", str(self.out)]
        return [*command, *(["--restarts", str(restarts)] if restarts else []), *overrides]

    def processes(self) -> list[psutil.Process]:
        """Everything of this round that is alive, launch included."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(TAG) == self.tag and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found

    def named(self, start: str) -> list[psutil.Process]:
        """Those whose program, or title, begins like this."""
        found = []
        for process in self.processes():
            try:
                program = (process.cmdline() or [process.name()])[0]
                found += [process] if program.rpartition("/")[2].startswith(start) else []
            except psutil.Error:
                continue
        return found

    def steps(self) -> list[int]:
        """The training steps that the run has logged."""
        return [step for step in read_metrics(self.out, "grpo") if step]

    def run(self, restarts: int = 2) -> None:
        """Start the run, strike, and wait for its end."""
        self.attempts += 1
        terminal = self.side / f"terminal.{self.attempts}.log"
        with terminal.open("wb") as sink:
            env = os.environ | {TAG: self.tag, MOOD: str(self.mood), "VERL_PLATFORM": "cpu"}
            process = subprocess.Popen(self.command(restarts), stdout=sink, stderr=subprocess.STDOUT, env=env)
        logs = (terminal, self.out / "grpo.log")
        seen, last, shown = [0, 0], time.monotonic(), 0
        reached = None
        while process.poll() is None:
            time.sleep(0.2)
            now = time.monotonic()
            if (sizes := [path.stat().st_size if path.exists() else 0 for path in logs]) != seen:
                seen, last = sizes, now
            if self.struck is None:
                reached = reached or (now if self.steps() and max(self.steps()) >= self.step else None)
                if reached and now >= reached + self.delay and self.strike(process):
                    self.struck, shown = now, sizes[0]
            elif self.reaction is None and sizes[0] > shown:
                self.reaction = now - self.struck
            if now - last > SILENCE:
                self.problems.append(f"no message for {now - last:.0f} s: {terminal.read_text()[-300:]}")
                for found in self.processes():
                    found.kill()
        self.status.append(process.returncode)
        if self.reaction is None and self.struck is not None:
            if self.kind == "launch":
                self.settle()
            self.reaction = time.monotonic() - self.struck

    def strike(self, launch: subprocess.Popen) -> bool:
        """Do what this round is about; False if it is not possible yet."""
        if self.kind in KILLS:
            victims = self.named(KILLS[self.kind])
            if not victims:
                return False
            victims[0].kill()
        elif self.kind == "launch":
            launch.kill()
        elif self.kind == "disk":
            free = os.statvfs(self.out)
            with (self.out / "filler").open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - (4 << 20))
        elif self.kind == "checkpoint":
            sealed = list(self.out.glob("checkpoints/global_step_*/manifest.json"))
            sealed.sort(key=lambda path: path.stat().st_mtime)
            trainers = self.named(KILLS["trainer"])
            if len(sealed) < 2 or not trainers:
                return False
            shard = next(sealed[-1].parent.glob("actor/model_world_size_*.pt"))
            os.truncate(shard, shard.stat().st_size // 2)
            trainers[0].kill()
        else:
            self.mood.write_text(str(self.rate))
        return True

    def go(self, ids: dict[int, list[str]]) -> None:
        """Run to the end, again if the user has to start it again; then check everything."""
        self.run()
        if self.struck is None:
            self.problems.append("the run ended before the strike")
        terminal = (self.side / "terminal.1.log").read_text(errors="replace")
        must_end = self.kind in ("launch", "disk") or (self.kind == "failures" and self.rate > 0.35)
        if must_end and self.kind != "launch":
            named = "No space left" if self.kind == "disk" else "the scorer is away"
            if self.status[-1] != 1 or named not in terminal:
                self.problems.append(f"status {self.status[-1]}, and no {named!r} in: {terminal[-500:]}")
        if self.status[-1]:
            if not must_end and not (self.kind == "failures" and "the scorer is away" in terminal):
                self.problems.append(f"ended with status {self.status[-1]}: {terminal[-500:]}")
            self.mood.write_text("0")
            (self.out / "filler").unlink(missing_ok=True)
            self.run()  # as a user does, with the same command
            if self.status[-1]:
                again = (self.side / f"terminal.{self.attempts}.log").read_text(errors="replace")
                self.problems.append(f"the same command ended with status {self.status[-1]}: {again[-500:]}")
        self.settle()
        if self.reaction is not None and self.reaction > REACTION:
            self.problems.append(f"{self.reaction:.0f} s without a message after the strike")
        self.check_rollouts(ids)

    def settle(self) -> None:
        """Wait until no process is left, a minute at most."""
        deadline = time.monotonic() + REACTION
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.5)
        if left:
            self.problems.append(f"{len(left)} processes left, e.g. {left[0].cmdline()[:3]}")
            for process in left:
                process.kill()

    def check_rollouts(self, ids: dict[int, list[str]]) -> None:
        """Every row was scored by its scorer, and each step has the prompts of an undisturbed run."""
        boxes = of_rewards(["box_soft_f1"])
        for step in range(1, STEPS + 1):
            rows = read_rollouts(self.out, step)
            found = sorted({row["id"] for row in rows})
            lost = self.kind == "failures"  # a prompt may lose all its rollouts
            if ids and not (set(found) <= set(ids[step]) if lost else found == ids[step]):
                self.problems.append(f"step {step} has prompts {found}, an undisturbed run {ids[step]}")
            for row in rows:
                if row["task"] == "grounding":
                    (result,) = score_batch([Rollout("", row["output"], row["gts"], {"task": "grounding"})], boxes)
                    right = result["box_soft_f1"]
                elif self.replica_spec:
                    continue  # their weights are random: equality with inline scoring has a test of its own
                else:
                    right = len(row["output"].strip()) % 7 / 7
                if abs(right - row["score"]) > 1e-6:
                    self.problems.append(f"step {step}: trained on {row['score']}, the scorer says {right}")

    def __str__(self) -> str:
        rate = f" {self.rate:.0%}" if self.kind == "failures" else ""
        head = f"{self.kind + rate:14} after step {self.step:2}: status {self.status}"
        times = f"reaction after {self.reaction or 0:3.0f} s, all in {time.monotonic() - self.started:4.0f} s"
        return "\n    PROBLEM ".join([f"{head}, {times}", *self.problems])


def read_rollouts(out: Path, step: int) -> list[dict[str, Any]]:
    """The rollouts that a step trained on; none if it was never dumped."""
    path = out / "rollouts" / f"{step}.jsonl"
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system of its own at ``folder``, just large enough to start a run."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2300m", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def scorers_in_replicas(folder: Path) -> dict[str, Any]:
    """A spec whose report reward is computed by two Ray Serve replicas, with tiny CheXbert weights in ``folder``."""
    base, scorers = folder / "bert", folder / "scorers"
    if not scorers.exists():
        scorers.mkdir(parents=True)
        tiny_checkpoints.bert_folder(base, initializer_range=0.3)
        tiny_text_models.chexbert(scorers)
    options = {"repo": str(scorers), "base": str(base)}
    engine = {"where": "ray", "replicas": 2, "cpus": 1.0, "threads": 1}
    return {"report": [{"name": "chexbert_f1", "options": options}], "engine": engine}


def play(rounds: list[str], seed: int, folder: Path) -> list[Round]:
    """Play rounds of these kinds, after an undisturbed run; returns them, and prints each."""
    rng = random.Random(seed)
    data = folder / "data"
    if data_prep(["demo", "--out", str(data), "--patients", "40", "--max-pixels", "16384"]):
        raise RuntimeError("no demo data")
    quiet = Round("none", folder / "undisturbed", data, STEPS + 1, 0.0)
    quiet.run(restarts=0)
    ids = {step: sorted({row["id"] for row in read_rollouts(quiet.out, step)}) for step in range(1, STEPS + 1)}
    if quiet.status != [0] or not all(ids.values()):
        raise RuntimeError(f"the undisturbed run failed: {(quiet.side / 'terminal.1.log').read_text()[-2000:]}")
    print(f"undisturbed: {time.monotonic() - quiet.started:.0f} s", flush=True)
    played = []
    for number, kind in enumerate(rounds):
        place = folder / f"round{number}"
        step, delay = rng.randint(4 if kind == "checkpoint" else 1, STEPS - 2), rng.uniform(0.0, 2.0)
        spec = scorers_in_replicas(folder / "models") if kind == "replica" else None
        with small_disk(place) if kind == "disk" else tempfile.TemporaryDirectory():
            found = Round(kind, place, data, step, delay, rng.choice([0.05, 0.3, 0.8, 1.0]), spec)
            found.go(ids)
        print(f"{number + 1:2} {found}", flush=True)
        played.append(found)
    return played


def main() -> int:
    """Play the rounds of the command line; 1 if one has a problem."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30, help="how many (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the kinds, steps and times (%(default)s)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="what may happen")
    parser.add_argument("--keep", type=Path, help="folder for the runs, which are otherwise removed")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    kinds = list(args.kinds) * (args.rounds // len(args.kinds) + 1)
    random.Random(args.seed).shuffle(kinds)
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        played = play(kinds[: args.rounds], args.seed, args.keep or Path(folder))
    bad = sum(bool(found.problems) for found in played)
    slowest = max(found.reaction or 0.0 for found in played)
    print(f"{len(played)} rounds, {bad} with a problem, slowest reaction {slowest:.0f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
