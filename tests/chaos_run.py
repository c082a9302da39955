"""One run of training under chaos: what strikes it, and what has to hold for it afterwards."""

import contextlib
import json
import os
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from recipe.cxr_grpo.demo import pretraining
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
# What each kind kills: how the command line of the process begins. The rest is in `Run.strike`.
KILLS = {
    "engine": "VLLM::EngineCore",
    "reward worker": "ray::RewardLoopWorker",
    "replica": "ray::ServeReplica",
    "trainer": "ray::TaskRunner",
    "raylet": "raylet",
}
# What launch has to print about it: all but those that end launch itself or that Ray Serve mends.
NAMES = {
    "engine": ("the vLLM engine of rollout server",),
    "reward worker": ("reward worker 0 died", "died: RewardLoopWorker"),
    "trainer": ("died: TaskRunnerV1",),
    "raylet": (" died: ",),  # whichever of its processes is missed first
    "checkpoint": ("is not used: ",),
    "disk": ("No space left",),
    "failures": ("the scorer is away",),
}
KINDS = (*KILLS, "launch", "disk", "checkpoint", "failures")


@dataclass
class Strike:
    """One round: what is done to a run, and when."""

    kind: str
    step: int  # once this step is done,
    delay: float  # after so many seconds
    rate: float = 0.0  # for failures: share of the scorer's answers
    struck: float | None = None
    reaction: float | None = None  # seconds to the next line on the terminal, or to the end of the run

    @property
    def ends(self) -> bool:
        """Whether the run has to end, with status 1; from all other strikes but that of launch it has to go on."""
        return self.kind == "disk" or (self.kind == "failures" and self.rate > 0.35)

    def named(self, terminal: str) -> bool:
        """Whether launch has said what happened."""
        quiet = self.kind == "failures" and not self.ends
        return quiet or self.kind not in NAMES or any(name in terminal for name in NAMES[self.kind])

    def __str__(self) -> str:
        rate = f" {self.rate:.0%}" if self.kind == "failures" else ""
        seconds = "none" if self.reaction is None else f"{self.reaction:.0f} s"
        return f"{self.kind}{rate} after step {self.step}, reaction {seconds}"


@dataclass
class Run:
    """One run of training and what is done to it, in this order."""

    strikes: list[Strike]
    folder: Path  # where the run writes
    data: Path
    replica_spec: dict[str, Any] | None = None
    mode: str = "cxr_sync"  # verl's trainer
    attempts: int = 0
    status: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        # What is beside the run must not be on the disk that is filled.
        self.tag, self.out, self.side = uuid.uuid4().hex, self.folder / "run", Path(f"{self.folder}.side")
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
            f"{kwargs}preset=null", f"{kwargs}spec={self.side}/spec.yaml", f"trainer.v1.trainer_mode={self.mode}",
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

    def latest(self) -> tuple[str, int]:
        """The metrics file of the newest attempt, and the last step in it."""
        files = sorted(self.out.glob("grpo.metrics.*.jsonl"), key=lambda path: path.stat().st_mtime)
        if not files:
            return "", 0
        lines = files[-1].read_text().splitlines()
        return files[-1].name, max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=0)

    def run(self, restarts: int = 3) -> list[Strike]:
        """Start the run, strike, and wait for its end; returns what struck it."""
        self.attempts += 1
        terminal = self.side / f"terminal.{self.attempts}.log"
        with terminal.open("wb") as sink:
            env = os.environ | {TAG: self.tag, MOOD: str(self.mood), "VERL_PLATFORM": "cpu"}
            process = subprocess.Popen(self.command(restarts), stdout=sink, stderr=subprocess.STDOUT, env=env)
        logs = (terminal, self.out / "grpo.log")
        seen, last = [0, 0], time.monotonic()
        reached, before = None, self.latest()  # each strike waits for a step that the run has made since
        struck: list[Strike] = []
        while process.poll() is None:
            time.sleep(0.2)
            now = time.monotonic()
            if (sizes := [path.stat().st_size if path.exists() else 0 for path in logs]) != seen:
                if sizes[0] > seen[0]:
                    react(struck, now)
                seen, last = sizes, now
            coming = next((strike for strike in self.strikes if strike.struck is None), None)
            if coming and not any(
                strike.ends for strike in struck
            ):  # the next comes once the run has been started again
                latest = self.latest()
                reached = reached or (now if latest != before and latest[1] >= coming.step else None)
                if reached and now >= reached + coming.delay and self.strike(coming, process):
                    coming.struck, reached, before = now, None, latest
                    struck.append(coming)
                    seen[0] = terminal.stat().st_size
            if now - last > SILENCE:
                self.problems.append(f"no message for {now - last:.0f} s: {terminal.read_text()[-300:]}")
                for found in self.processes():
                    found.kill()
        self.status.append(process.returncode)
        if struck and struck[-1].kind == "launch":
            self.settle()
        react(struck, time.monotonic())
        return struck

    def strike(self, strike: Strike, launch: subprocess.Popen) -> bool:
        """Do what a round is about; False if it is not possible yet."""
        if strike.kind in KILLS:
            victims = self.named(KILLS[strike.kind])
            if not victims:
                return False
            victims[0].kill()
        elif strike.kind == "launch":
            launch.kill()
        elif strike.kind == "disk":
            with (self.out / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while file.write(bytes(1 << 20)):  # the run writes, too: nobody knows how much is left
                    pass
        elif strike.kind == "checkpoint":
            sealed = list(self.out.glob("checkpoints/global_step_*[0-9]/manifest.json"))
            sealed.sort(key=lambda path: path.stat().st_mtime)
            trainers = self.named(KILLS["trainer"])
            if len(sealed) < 2 or not trainers:
                return False
            shard = next(sealed[-1].parent.glob("actor/model_world_size_*.pt"))
            os.truncate(shard, shard.stat().st_size // 2)
            trainers[0].kill()
        else:
            self.mood.write_text(str(strike.rate))
        return True

    def go(self, ids: dict[int, list[str]]) -> None:
        """Run to the end, with the same command again where a user has to start it again; then check everything."""
        struck = self.run()
        while self.status[-1] and self.attempts <= len(self.strikes):
            terminal = self.said()
            by_launch = bool(struck) and struck[-1].kind == "launch"
            # Less than a third of failing answers may end a run, too: retries can fail.
            by_us = any(strike.kind in ("disk", "failures") for strike in struck)
            if not by_launch and not (self.status[-1] == 1 and by_us):
                self.problems.append(f"status {self.status[-1]}: {terminal[-500:]}")
            self.mood.write_text("0")
            (self.out / "filler").unlink(missing_ok=True)
            struck = self.run()  # as a user does
        if self.status[-1]:
            self.problems.append(f"the same command ended with status {self.status[-1]}: {self.said()[-500:]}")
        for strike in self.strikes:
            if strike.struck is None:
                self.problems.append(f"the run ended before: {strike}")
            elif strike.reaction is not None and strike.reaction > REACTION:
                self.problems.append(f"{strike.reaction:.0f} s without a message after: {strike}")
            elif not strike.named("".join(map(self.said, range(1, self.attempts + 1)))):
                self.problems.append(f"launch does not name the cause: {strike}")
        if sum(strike.ends for strike in self.strikes) > sum(status == 1 for status in self.status):
            self.problems.append(f"went on where it had to end: status {self.status}")
        self.settle()
        self.check_rollouts(ids)

    def said(self, attempt: int | None = None) -> str:
        """What the terminal showed in an attempt, the last one by default."""
        return (self.side / f"terminal.{attempt or self.attempts}.log").read_text(errors="replace")

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
            lost = any(strike.kind == "failures" for strike in self.strikes)  # a prompt may lose all its rollouts
            if self.mode != "cxr_sync":  # which prompts an asynchronous step has is a matter of time
                if not rows:
                    self.problems.append(f"step {step} has no rollouts")
            elif not (set(found) <= set(ids[step]) if lost else found == ids[step]):
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
        struck = "\n".join(map(str, self.strikes)) or "undisturbed"
        times = f"status {self.status}, all in {time.monotonic() - self.started:.0f} s"
        return "\n    PROBLEM ".join([f"{struck}\n    {times}", *self.problems])


def react(strikes: list[Strike], now: float) -> None:
    """Note that the run has said something, or ended."""
    for strike in strikes:
        if strike.reaction is None and strike.struck is not None:
            strike.reaction = now - strike.struck


def read_rollouts(out: Path, step: int) -> list[dict[str, Any]]:
    """The rollouts that a step trained on; none if it was never dumped."""
    path = out / "rollouts" / f"{step}.jsonl"
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]
