"""Score saved predictions on prepared data: the metrics of the paper's tables, for each sample and over all.

Predictions are JSON lines, {"id", "prediction"} and, for the controls, "films" (swapped, same_finding or blank), or
dumps of verl's validation. A sample without a prediction, or with one that can't be read, counts with the floor of all
metrics. OUT/MODEL/SET-TASK/FILMS then has predictions.jsonl, scores.jsonl and results.json.
"""

import argparse
import json
import re
import shlex
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_prep.options import folder
from recipe.cxr_grpo.evaluation import costless, results_folder
from recipe.cxr_grpo.evaluation.generation import SETTINGS
from recipe.cxr_grpo.evaluation.judges import JUDGED, judges
from recipe.cxr_grpo.evaluation.predictions import ARMS, Given, match, read_predictions, samples
from recipe.cxr_grpo.evaluation.scoring import METRICS, score
from recipe.cxr_grpo.results.validation import OWN
from recipe.cxr_grpo.running.training import exit_status
from reward_fns.errors import UsageError, unknown


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    example = (
        "example: python -m recipe.cxr_grpo.evaluate --predictions mine.jsonl --data test.parquet --model m --out r"
    )
    layout = argparse.RawDescriptionHelpFormatter
    name = "python -m recipe.cxr_grpo.evaluate"
    parser = argparse.ArgumentParser(name, description=__doc__, epilog=example, formatter_class=layout)
    add, names = parser.add_argument, ",".join(METRICS["report"])
    usual = ",".join(name for name in METRICS["report"] if name not in JUDGED)
    files: dict = {"type": Path, "nargs": "+", "default": []}
    add("--predictions", "--dump", **files, metavar="FILE", help="JSON lines, or verl's RUN/validation/STEP.jsonl")
    add("--data", **files, metavar="PARQUET", help="data for RL; without it, only what the dumps hold counts")
    add("--model", default="", help="name of the model's row in tables, and of its folder")
    add("--seed", type=int, help="seed of the model's training, if there are several; it names the folder, too")
    add("--out", type=folder, required=True, help="folder of all results")
    add("--films", default=",".join(ARMS), help="score only predictions on these films (%(default)s)")
    add("--metrics", default=usual, help=f"of reports, out of {names} (%(default)s)")
    add("--thinking", action="store_true", help="the model thinks first, whatever the data says")
    add("--costless", action="store_true", help="also score answers that cost nothing, which every model must beat")
    add("--train", **files, metavar="PARQUET", help="training data, for --costless")
    args = parser.parse_args(argv)
    command = shlex.join(["python", "-m", "recipe.cxr_grpo.evaluate", *(sys.argv[1:] if argv is None else argv)])
    return exit_status("evaluate", lambda: evaluate(args, command))


def evaluate(args: argparse.Namespace, command: str) -> None:
    """Score what the arguments name, write the results folders and print a line for each."""
    films, metrics = args.films.split(","), args.metrics.split(",")
    for name, valid in [*((film, ARMS) for film in films), *((metric, METRICS["report"]) for metric in metrics)]:
        if name not in valid:
            raise UsageError(unknown("name in --films or --metrics:", name, valid))
    judges(metrics)
    if args.costless != bool(args.data and args.train) or not (args.costless or args.predictions):
        raise UsageError("give --predictions, or --costless with --data and --train, or all of them")
    if args.predictions and not re.fullmatch(r"[\w+-][\w.+-]*", args.model):
        raise UsageError(f"--model must be the name of a folder: letters, digits, and . _ + -; got {args.model!r}")
    given = read_predictions(args.predictions)
    asked = samples(args.data, given, thinking=args.thinking)
    chosen = [prediction for prediction in given if prediction.row["films"] in films]
    jobs = [(args.model, args.seed, pairs) for pairs in match(asked, chosen)]
    if args.costless:
        own = [replace(sample, thinking=False) for sample in asked if sample.films == OWN]
        rows: dict[str, list[Given]] = defaultdict(list)
        for model, name, text in costless.answers(own, samples(args.train), args.seed or 0):
            rows[model].append(Given({"id": name, "prediction": text, "films": OWN}, model))
        jobs += [(model, args.seed, pairs) for model, of in rows.items() for pairs in match(own, of)]
    decoding = _decoding(args.predictions)
    if not jobs:
        raise UsageError("these files hold no prediction to score for these films")
    for model, seed, pairs in jobs:
        made = decoding if model == args.model else None
        results = results_folder.write(args.out, model, seed, pairs, score(pairs, metrics), command, made)
        values = ", ".join(f"{name} {value:.4g}" for name, value in results["metrics"].items() if value is not None)
        counts = "{model}, {data_set}/{task}, {films}: {samples} samples, {failed} failed, {missing} missing"
        print(f"{counts.format_map(results)}; {values}")


def _decoding(predictions: list[Path]) -> dict[str, Any] | None:
    """What `generate` has noted beside its predictions, None if they are somebody else's."""
    noted = [path.with_name(SETTINGS) for path in predictions if path.with_name(SETTINGS).is_file()]
    if not noted:
        return None
    settings = json.loads(noted[0].read_text())
    return {key: settings.get(key) for key in ("temperature", "max_tokens", "tries", "seed", "suffix", "prompt")}


if __name__ == "__main__":
    sys.exit(main())
