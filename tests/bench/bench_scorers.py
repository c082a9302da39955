"""How fast the neural rewards are, on work like that of a GRPO run: `python tests/bench/bench_scorers.py --help`."""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for a call as a script

from bench.scorers import workload
from bench.scorers.random_weights import write_all
from bench.scorers.trial import Run, Trial

from reward_fns.errors import UsageError, unknown
from reward_fns.models.shims import torchvision_operators
from reward_fns.registry import get, names
from reward_fns.settings import EngineOptions, parse

_STEPS = ("tokenise", "encode", "decode")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; exit status 1 if a rollout could not be scored, 2 on wrong use."""
    try:
        return _run(_parser().parse_args(argv))
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=(
            "Measure neural rewards on work like that of a GRPO run: groups of rollouts about the same report, with a\n"
            "share of exact copies, the references again in every epoch; each rollout is asked for alone, as by verl.\n"
            "Weights are random ones of the real size, so that nothing is downloaded."
        ),
        epilog=(
            "examples:\n"
            "  python tests/bench/bench_scorers.py --prompts 8\n"
            "  python tests/bench/bench_scorers.py --file reports.txt --engine dtype=float32 --engine dtype=bfloat16\n"
            "  python tests/bench/bench_scorers.py --prompts 512 --stream 60 --engine device=cuda\n"
            "  python tests/bench/bench_scorers.py --prompts 8 --workers 8 --engine where=ray replicas=2 threads=1\n"
            "against the reference packages:\n"
            "  bash examples/install.sh .venv-reference reference\n"
            "  python tests/bench/bench_scorers.py --file reports.txt --baseline library \\\n"
            "    --python .venv-reference/bin/python"
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rewards", default="radcliq", metavar="A[,B]", help="neural rewards (%(default)s)")
    parser.add_argument("--file", type=Path, help="reports, one a line or in JSON lines; invented ones by default")
    parser.add_argument("--prompts", type=count, default=64, metavar="N", help="of an epoch (%(default)s)")
    parser.add_argument("--rollouts", type=count, default=8, metavar="N", help="of a prompt (%(default)s)")
    parser.add_argument("--epochs", type=count, default=1, metavar="N", help="(%(default)s)")
    parser.add_argument("--duplicates", type=share, default=0.1, metavar="P", help="share of copies (%(default)s)")
    parser.add_argument("--stream", type=float, default=0.0, metavar="S", help="let rollouts arrive over S seconds")
    parser.add_argument("--concurrency", type=count, default=256, metavar="N", help="asked for at once (%(default)s)")
    parser.add_argument(
        "--workers", type=natural, default=0, metavar="N",
        help="processes that ask for their share of the rollouts, as verl's reward workers do; 0 for this one alone",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="(%(default)s)")
    parser.add_argument(
        "--engine", nargs="+", action="append", metavar="K=V",
        help="options of the engine; give it again to compare, values with those of the first",
    )  # fmt: skip
    parser.add_argument("--layers", type=count, default=12, metavar="N", help="of the random BERT (%(default)s)")
    parser.add_argument("--width", type=count, default=768, metavar="N", help="of the random BERT (%(default)s)")
    parser.add_argument("--baseline", choices=["library"], help="RadCliQ by the reference packages, pair by pair")
    parser.add_argument("--python", type=Path, help="of the environment that has them")
    parser.add_argument("--baseline-pairs", type=count, default=64, metavar="N", help="of the work (%(default)s)")
    return parser


def count(text: str) -> int:
    if int(text) < 1:
        raise ValueError
    return int(text)


def natural(text: str) -> int:
    if int(text) < 0:
        raise ValueError
    return int(text)


def share(text: str) -> float:
    if not 0 <= float(text) < 1:
        raise ValueError
    return float(text)


def _run(options: argparse.Namespace) -> int:
    settings = [parse(given) for given in options.engine or [[]]]
    if options.baseline and (options.rewards != "radcliq" or options.python is None):
        raise UsageError("--baseline library is for --rewards radcliq and needs --python, see --help")
    rewards = [name.strip() for name in options.rewards.split(",")]
    neural = [name for name in names() if get(name).needs is not None]
    for name in rewards:
        if name not in neural:
            raise UsageError(unknown("neural reward", name, neural))
    texts = workload.texts_of(options.file) if options.file else _invented(options)
    work = workload.make(texts, options.prompts, options.rollouts, options.epochs, options.duplicates, options.seed)
    print(
        f"{len(work.pairs)} rollouts: {work.prompts} prompts x {work.rollouts} x {work.epochs} epochs, "
        f"{len({text for text, _ in work.pairs})} different; "
        f"{sum(len(text) for text, _ in work.pairs) / len(work.pairs):.0f} characters on average"
    )
    with tempfile.TemporaryDirectory(prefix="cxr-grpo-bench-") as scratch:
        texts = [text for pair in work.pairs for text in pair]
        place = _weights(Path(scratch), texts, options.layers, options.width)
        for name in rewards:
            _measure(name, work, settings, place, options, Path(scratch))
    return 0


def _weights(folder: Path, texts: Sequence[str], layers: int, width: int) -> dict[str, str]:
    torchvision_operators()
    import transformers

    transformers.logging.disable_progress_bar()
    return write_all(folder, texts, layers, width)


def _invented(options: argparse.Namespace) -> list[str]:
    return workload.invented(options.prompts, random.Random(options.seed))


def _measure(
    name: str,
    work: workload.Work,
    settings: Sequence[EngineOptions],
    place: Mapping[str, str],
    options: argparse.Namespace,
    folder: Path,
) -> None:
    few = random.Random(options.seed).sample(work.pairs, min(options.baseline_pairs, len(work.pairs)))
    # Half of it before and half after, as other work on the machine comes and goes.
    halves = [few[::2], few[1::2]] if options.baseline and len(few) > 1 else []
    baseline = [_library(options.python, folder, halves[0])] if halves else []
    runs = []
    for setting in settings:
        trial = Trial(name, place, setting, options.concurrency, options.stream, options.workers)
        runs.append(trial.run(work.pairs))
        _print(name, setting, runs[-1], runs[0], options.stream)
    if halves:
        baseline.append(_library(options.python, folder, halves[1]))
        _compare(work, runs, [(*pair, value) for half, (values, _) in zip(halves, baseline, strict=True)
                              for pair, value in zip(half, values, strict=True)],
                 sum(seconds for _, seconds in baseline))  # fmt: skip


def _print(name: str, setting: EngineOptions, run: Run, first: Run, stream: float) -> None:
    changed = [f"{key.name}={getattr(setting, key.name)}" for key in fields(setting)
               if getattr(setting, key.name) != key.default]  # fmt: skip
    print(f"\n{name}, engine {' '.join(changed) or 'as it is by default'}")
    rate = len(run.values) / run.seconds
    print(f"  {rate:10.2f} rollouts/s, {1000 / rate:.2f} ms each, {run.seconds:.1f} s in all")
    if stream:
        late = sorted(run.late)
        high = late[int(0.99 * (len(late) - 1))]
        print(
            f"  latency: median {late[len(late) // 2]:.3f} s, 99th percentile {high:.3f} s; "
            f"all done {run.seconds - stream * (1 - 1 / len(late)):.3f} s after the last arrived"
        )
    if run.counts:
        busy = {step: run.steps[step] for step in _STEPS} | {"match": run.match}
        print("  busy: " + ", ".join(f"{step} {seconds:.2f} s" for step, seconds in busy.items())
              + f"; callers waited {run.steps['wait'] / len(run.values):.2f} s on average")  # fmt: skip
        asked = run.counts["asked"]
        shares = {
            "read": "read",
            "in the cache": "cached",
            "fetched from another replica": "fetched",
            "under way or twice in a call": "joined",
        }
        both = {what: run.counts[key] + (run.counts["again"] if key == "joined" else 0) for what, key in shares.items()}
        print(f"  {asked} texts asked for: " + ", ".join(f"{n} {what} ({n / asked:.0%})" for what, n in both.items()))
        if run.counts["batches"]:
            print(
                f"  {run.counts['batches']} batches, {run.counts['tokens'] / run.counts['batches']:.0f} tokens each, "
                f"{1 - run.counts['tokens'] / run.counts['padded']:.1%} padding; {run.counts['halved']} halved"
            )
    print(f"  memory: {_memory(run)}")
    if run is not first:
        moved = [abs(a - b) for a, b in zip(first.values, run.values, strict=True)]
        print(
            f"  against the first: {first.seconds / run.seconds:.2f} x as fast; "
            f"{sum(move > 1e-4 for move in moved) / len(moved):.1%} of the rewards moved by more than 0.0001, "
            f"{sum(moved) / len(moved):.2g} on average, {max(moved):.2g} at most"
        )


def _memory(run: Run) -> str:
    gib = 2**30
    text = f"{max(run.memory) / gib:.1f} GiB at most"
    if len(run.memory) > 1:
        text = f"{len(run.memory)} workers of {text}, {sum(run.memory) / gib:.1f} GiB together"
    if run.served:
        text += f"; replicas of {run.served / gib:.1f} GiB together"
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        text += f"; {sys.modules['torch'].cuda.max_memory_allocated() / gib:.1f} GiB on this process's GPU"
    return text


def _library(python: Path, folder: Path, pairs: Sequence[tuple[str, str]]) -> tuple[list[float], float]:
    """Values, and the seconds they took, of the reference packages, in a process of their own environment."""
    import torch

    job = {"pairs": [[text.lower()[:2048] for text in pair] for pair in pairs], "threads": torch.get_num_threads()}
    env = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    env["PYTHONPATH"] = str(Path(__file__).parents[2])
    command = [str(python.absolute()), str(Path(__file__).parent / "scorers/baseline.py")]
    try:
        done = subprocess.run(command, cwd=folder, env=env, input=json.dumps(job), capture_output=True, text=True)
        result = json.loads(done.stdout)
    except OSError as error:
        raise UsageError(f"cannot run --python {python}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"the reference packages failed under {python}:\n{done.stderr[-2000:]}") from error
    return result["values"], result["seconds"]


def _compare(work: workload.Work, runs: Sequence[Run], known: Sequence[tuple[str, str, float]], seconds: float) -> None:
    rate = len(known) / seconds
    print(f"\nlibrary, one pair at a time, on {len(known)} of the {len(work.pairs)} rollouts")
    print(f"  {rate:10.2f} rollouts/s, {1000 / rate:.2f} ms each, {seconds:.1f} s in all")
    for i, run in enumerate(runs, 1):
        ours = dict(zip(work.pairs, run.values, strict=True))
        moved = max(abs(ours[prediction, reference] - max(value, -3.0)) for prediction, reference, value in known)
        ratio = len(run.values) / run.seconds / rate
        print(f"  engine {i}: {ratio:.2f} x as fast; the rewards differ by {moved:.2g} at most")


if __name__ == "__main__":
    sys.exit(main())
