"""Break GRPO runs at seeded random times in all the ways that clusters do, and check what becomes of each run.

Each round strikes once: it kills -9 the vLLM engine, a reward worker, a scorer replica, verl's TaskRunner, the raylet
or launch, fills the disk, truncates the newest checkpoint, or lets a share of a scorer's answers fail. Up to three
rounds strike one run of 12 steps. It must go on, go on from its last checkpoint, or end and name the cause.

    python tests/chaos.py --rounds 30 --seed 0

needs the CPU extra, and root for the full disk (a tmpfs). A round takes two to three minutes on two cores.
"""

import argparse
import contextlib
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# The packages before the folders of tests that are named after them.
sys.path.insert(0, str(Path(__file__).parents[1]))

import tiny_checkpoints
import tiny_text_models
from chaos_run import KINDS, STEPS, Run, Strike, read_rollouts

from data_prep.cli import main as data_prep

MODES = ("cxr_sync", "cxr_colocate_async")  # the third needs GPUs of its own for rollouts


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system of its own at ``folder``, just large enough to start a run."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2600m", "tmpfs", str(folder)], check=True)
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


def shared_out(kinds: list[str], most: int) -> list[list[str]]:
    """The rounds of each run, at most so many; one whose scorers are in replicas has a round of its own."""
    runs: list[list[str]] = []
    for kind in kinds:
        if kind == "replica" or not runs or len(runs[-1]) == most or "replica" in runs[-1]:
            runs.append([])
        runs[-1].append(kind)
    return runs


def play(rounds: list[str], seed: int, folder: Path, together: int = 3, mode: str = MODES[0]) -> list[Run]:
    """Play rounds of these kinds, after an undisturbed run, so many in one run; returns the runs, and prints each.

    ``mode`` is verl's trainer; only a synchronous one has the same prompts in the same step of every run.
    """
    rng = random.Random(seed)
    data = folder / "data"
    if data_prep(["demo", "--out", str(data), "--patients", "40", "--max-pixels", "16384"]):
        raise RuntimeError("no demo data")
    quiet = Run([], folder / "undisturbed", data, mode=mode)
    quiet.run(restarts=0)
    ids = {step: sorted({row["id"] for row in read_rollouts(quiet.out, step)}) for step in range(1, STEPS + 1)}
    if quiet.status != [0] or not all(ids.values()):
        raise RuntimeError(f"the undisturbed run failed: {(quiet.side / 'terminal.1.log').read_text()[-2000:]}")
    print(quiet, flush=True)
    played = []
    for number, kinds in enumerate(shared_out(rounds, together)):
        place = folder / f"run{number}"
        steps = sorted(rng.sample(range(1, STEPS - 1), len(kinds)))
        strikes = [
            Strike(kind, step, rng.uniform(0.0, 2.0), rng.choice([0.05, 0.3, 0.8, 1.0]))
            for kind, step in zip(kinds, steps, strict=True)
        ]
        spec = scorers_in_replicas(folder / "models") if "replica" in kinds else None
        with small_disk(place) if "disk" in kinds else tempfile.TemporaryDirectory():
            found = Run(strikes, place, data, spec, mode)
            found.go(ids)
        print(found, flush=True)
        played.append(found)
    return played


def main() -> int:
    """Play the rounds of the command line; 1 if one has a problem."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30, help="how many (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the kinds, steps and times (%(default)s)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="what may happen")
    parser.add_argument("--mode", choices=MODES, default=MODES[0], help="verl's trainer (%(default)s)")
    parser.add_argument("--keep", type=Path, help="folder for the runs, which are otherwise removed")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    kinds = list(args.kinds) * (args.rounds // len(args.kinds) + 1)
    random.Random(args.seed).shuffle(kinds)
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        played = play(kinds[: args.rounds], args.seed, args.keep or Path(folder), mode=args.mode)
    bad = sum(bool(found.problems) for found in played)
    slowest = max(strike.reaction or 0.0 for found in played for strike in found.strikes)
    print(f"{args.rounds} rounds in {len(played)} runs, {bad} with a problem, slowest reaction {slowest:.0f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
