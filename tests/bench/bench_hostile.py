"""What a million hostile answers do to every reward that needs neither weights nor a server.

`python tests/bench/bench_hostile.py` scores each as verl does, by `compute_score`, and prints exceptions, values that
are not finite or out of range, changes of the keys, and the worst CPU time of one answer of up to 100,000 characters:
of all its rewards, and of reading it alone. Exit status 1 if anything but the time is wrong.
"""

import argparse
import asyncio
import logging
import math
import resource
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1]))  # for a call as a script

from bench.hostile_texts import Hostile, answers

from reward_fns.registry import TASKS, get, names
from reward_fns.rollout import parse_rollout
from reward_fns.scoring import compute_score, result_keys
from reward_fns.spec import RewardSpec, resolve


@dataclass
class Tally:
    """What was found in the answers of a task."""

    wrong: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    slowest: dict[str, tuple[float, str]] = field(default_factory=dict)  # seconds and text, by what was done

    def note(self, kind: str, answer: Hostile, detail: object) -> None:
        """Count something wrong."""
        self.wrong[kind] += 1
        self.first.setdefault(kind, f"{detail} on {answer.kind} {answer.rollout.solution_str[:200]!r}")

    def time(self, what: str, seconds: float, answer: Hostile) -> None:
        """Keep the longest time."""
        if seconds > self.slowest.get(what, (0.0, ""))[0]:
            text = answer.rollout.solution_str
            self.slowest[what] = seconds, f"{answer.kind}, {len(text):,} characters: {ascii(text[:99])[:99]}"


def check(result: Mapping[str, float], spec: RewardSpec, task: str, answer: Hostile, tally: Tally) -> None:
    """Note what is wrong with a result."""
    if list(result) != result_keys(spec):
        tally.note("key changes", answer, list(result))
    for part in spec.tasks[task]:
        low, high = part.reward.range
        if not low <= result[part.reward.name] <= high:
            tally.note("out of range", answer, (part.reward.name, result[part.reward.name]))
    others = set(spec.reward_names) - {part.reward.name for part in spec.tasks[task]}
    if any(math.isnan(value) != (key in others) or math.isinf(value) for key, value in result.items()):
        tally.note("non-finite", answer, result)


async def score(task: str, count: int, seed: int, tally: Tally) -> None:
    """Score the answers of a task, each alone, with its time."""
    ours = (reward for reward in map(get, names()) if reward.function.__module__.startswith("reward_fns."))
    free = [reward for reward in ours if not (reward.needs or iscoroutinefunction(reward.function))]
    rewards = {task: [{"name": reward.name} for reward in free if task in reward.tasks] for task in TASKS}
    presets = ("paper_grounding", "quickstart") if task == "grounding" else ("quickstart",)
    choices: list[dict[str, Any]] = [{"spec": rewards}, *({"preset": name} for name in presets)]
    defects: list[logging.LogRecord] = []  # of the reader, which catches and logs them
    handler = logging.Handler()
    handler.emit = defects.append  # type: ignore[method-assign]
    logging.getLogger("reward_fns.rollout").addHandler(handler)
    bar = tqdm(answers(count, seed, task=task), total=count, desc=task, disable=not sys.stderr.isatty())
    for number, answer in enumerate(bar):
        chosen = choices[number % len(choices)]
        source, text, truth, info, _ = answer.rollout
        if number < len(choices):  # what is imported at the first use does not count
            await compute_score(source, "<think>a</think>No.", truth, info, **chosen)
        started = time.process_time()
        try:
            result = await compute_score(source, text, truth, info, **chosen)
            tally.time("scoring", time.process_time() - started, answer)
            check(result, resolve(**chosen), task, answer, tally)
            started = time.process_time()
            parse_rollout(answer.rollout, resolve(**chosen))
            tally.time("reading", time.process_time() - started, answer)
        except Exception as error:
            tally.note("exceptions", answer, repr(error))
        if defects:
            tally.note("exceptions", answer, defects.pop().exc_info)
            defects.clear()


def main(argv: Sequence[str] | None = None) -> int:
    """Print one block per task; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000_000, help="answers (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another seed makes other answers (%(default)s)")
    options = parser.parse_args(argv)
    started, sound, count = time.perf_counter(), True, options.count // len(TASKS)
    for task in TASKS:
        tally = Tally()
        asyncio.run(score(task, count, options.seed, tally))
        kinds = ("exceptions", "non-finite", "key changes", "out of range")
        print(f"{task}: {count:,} answers, {', '.join(f'{tally.wrong[kind]} {kind}' for kind in kinds)}")
        for kind, text in tally.first.items():
            print(f"    first of {kind}: {text}")
        for what, (seconds, text) in tally.slowest.items():
            print(f"    slowest {what}: {seconds * 1000:.1f} ms, {text}")
        sound &= not tally.wrong.total()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{time.perf_counter() - started:.0f} s, of which {time.process_time():.0f} s CPU; {peak:.0f} MiB at most")
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
