"""Answer prepared questions with vLLM, on each patient's own film and on controls; writes OUT/predictions.jsonl.

A killed run goes on where it was; `evaluate` scores what it wrote. Exit status 1: some questions could not be asked.
"""

import argparse
import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from data_prep.options import folder, positive
from recipe.cxr_grpo import cpu
from recipe.cxr_grpo.evaluation import generation
from recipe.cxr_grpo.evaluation.models import choose, models
from recipe.cxr_grpo.results import films
from recipe.cxr_grpo.results.validation import OWN
from recipe.cxr_grpo.running.checks import run_environment
from recipe.cxr_grpo.running.training import exit_status, vllm_lock
from reward_fns.errors import UsageError, unknown

_ARMS = (OWN, *films.CONTROLS)
_CPU = {"dtype": "float32", "enforce_eager": True, "gpu_memory_utilization": 0.1}


def _arms(text: str) -> tuple[str, ...]:
    if wrong := [arm for arm in text.split(",") if arm not in _ARMS]:
        raise argparse.ArgumentTypeError(unknown("films", wrong[0], _ARMS))
    return tuple(dict.fromkeys(text.split(",")))


def _shard(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if not 0 <= int(index) < int(count):
        raise argparse.ArgumentTypeError(f"must be I/N with 0 <= I < N, got {text}")
    return int(index), int(count)


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m recipe.cxr_grpo.generate",
        description=__doc__,
        epilog="example: python -m recipe.cxr_grpo.generate --model qwen3_vl --data data/mimic/test.parquet "
        "--films own,swapped --out answers/qwen3_vl\nnames of models: " + ", ".join(models()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    model = "a name below, NAME=FOLDER for other weights, or a folder or hub id alone"
    parser.add_argument("--model", type=choose, required=True, help=model)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="parquet files for RL")
    parser.add_argument("--out", type=folder, required=True, help="folder of the answers")
    arms = f"films to ask about, of {','.join(_ARMS)} (default: own)"
    parser.add_argument("--films", type=_arms, default=(OWN,), metavar="ARM,...", help=arms)
    shard = "answer every N-th question from the I-th on, I from 0; give all N the same --out (default: 0/1)"
    parser.add_argument("--shard", type=_shard, default=(0, 1), metavar="I/N", help=shard)
    parser.add_argument("--max-tokens", type=positive, help="of an answer (default: the model's)")
    parser.add_argument("--seed", type=int, default=0, help="of sampling and of swapped films (%(default)s)")
    engine = """arguments of vllm.LLM, such as '{"tensor_parallel_size": 4}'"""
    parser.add_argument("--engine", type=json.loads, default={}, metavar="JSON", help=engine)
    return exit_status("generate", lambda: run(parser.parse_args(argv)))


def run(args: argparse.Namespace) -> int:
    """Answer the questions; returns the exit status."""
    model, weights = args.model
    if missing := [path for path in args.data if not path.is_file()]:
        raise UsageError(f"--data: no file {missing[0]}. Make it with `python -m data_prep <set> --out DIR`.")
    os.umask(0o077)  # answers are about patients
    os.environ.update({"VLLM_LOGGING_LEVEL": "ERROR"} | run_environment())
    sampling = {"temperature": model.temperature, "max_tokens": args.max_tokens or model.max_tokens, "seed": args.seed}
    busy = "a training run or another generation uses vLLM on this machine's CPU; wait for its end"
    with vllm_lock(busy) if cpu.enabled() else contextlib.nullcontext():
        files = {path.name: path.stat().st_mtime_ns for path in sorted(Path(weights).glob("*.safetensors"))}
        settings = model.model_dump() | sampling | {"weights": weights, "weight files": files}
        arms = generation.prepare(args.out, args.data, args.films, settings)
        questions = generation.read_questions(model, weights, arms)
        options = (_CPU if cpu.enabled() else {}) | args.engine

        def answer(todo: list[generation.Question], write: Any) -> None:
            generation.answer(todo, generation.Vllm(weights, options), model, sampling, write)

        rows = generation.run_shard(args.out, questions, args.shard, answer)
    if rows is None:
        print(f"this shard is done; the last one writes {args.out / generation.PREDICTIONS}")
        return 0
    errors = [row["error"] for row in rows if "error" in row]
    cut = sum(row["finish_reason"] == "length" for row in rows)
    print(f"{args.out / generation.PREDICTIONS}: {len(rows)} answers, {cut} cut off, {len(errors)} failed")
    if errors:
        print(f"first failure: {errors[0]}; the same command asks those that failed again", file=sys.stderr)
    return int(bool(errors))


if __name__ == "__main__":
    sys.exit(main())
