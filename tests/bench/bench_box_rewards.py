"""Microseconds per call of every box reward on 8 x 8 boxes: `python tests/bench/bench_box_rewards.py`."""

import argparse
import random
import timeit
from functools import partial

from reward_fns.boxes import Box
from reward_fns.registry import get, names


def boxes(rng: random.Random, count: int) -> tuple[Box, ...]:
    """``count`` random boxes."""
    corners = (sorted(rng.sample(range(1001), 2)) + sorted(rng.sample(range(1001), 2)) for _ in range(count))
    return tuple(Box(x1 / 1000, y1 / 1000, x2 / 1000, y2 / 1000) for x1, x2, y1, y2 in corners)


def main() -> None:
    """Print one line per reward: the best of 300 short rounds, which other programs disturb least."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--boxes", type=int, default=8, help="boxes a side (%(default)s)")
    options = parser.parse_args()
    rng = random.Random(0)
    sides = boxes(rng, options.boxes), boxes(rng, options.boxes)
    for reward in map(get, names()):
        if reward.task == "grounding":
            calls = timeit.Timer(partial(reward.function, *sides))
            calls.timeit(100)
            print(f"{reward.name:12} {min(calls.repeat(300, 30)) / 30 * 1e6:8.1f} us")


if __name__ == "__main__":
    main()
