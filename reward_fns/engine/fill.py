"""`python -m reward_fns fill`: read the references of a data set ahead of a run, into the cache on disk."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from reward_fns.engine.lanes import lanes
from reward_fns.errors import UsageError
from reward_fns.scoring import Rollout, score_batch
from reward_fns.spec import resolve

_CHUNK = 512


def add_parser(commands: Any) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "fill",
        help="read the references of a data set ahead of a run",
        description=(
            "Read the reports of a training parquet (or of JSON lines as for score) with the models that a spec's\n"
            "rewards need, and keep what is found in the folder that the spec names, engine: {cache_dir: ...}."
        ),
        epilog="example: python -m reward_fns fill --spec spec.yaml --file data/train.parquet",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--spec", required=True, metavar="FILE", help="reward spec in YAML")
    parser.add_argument("--file", type=Path, required=True, metavar="PARQUET|JSONL", help="data with the references")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Fill the cache; exit status 1 if a reference could not be read."""
    from tqdm import tqdm

    spec = resolve(spec=options.spec)
    if spec.engine.where != "inline" or not spec.engine.cache_dir:
        raise UsageError(f"{options.spec}: to fill a cache needs engine: {{cache_dir: FOLDER}}, and where: inline")
    reports = list(dict.fromkeys(_references(options.file)))
    failures = []
    with tqdm(total=len(reports), desc="fill", disable=not sys.stderr.isatty()) as bar:
        for start in range(0, len(reports), _CHUNK):
            chunk = reports[start : start + _CHUNK]
            samples = [Rollout("fill/report", text, {"report": text}, {"id": text[:40]}) for text in chunk]
            # Asked for twice, so that it is kept as what comes again.
            failures += [str(result) for _ in range(2) for result in score_batch(samples, spec)
                         if not isinstance(result, dict)]  # fmt: skip
            bar.update(len(chunk))
    for lane in lanes().values():
        lane.flush()
    print(f"{len(reports)} references, {len(set(failures))} of which could not be read; in {spec.engine.cache_dir}")
    for failure in list(dict.fromkeys(failures))[:20]:
        print(f"    {failure}", file=sys.stderr)
    return 1 if failures else 0


def _references(path: Path) -> list[str]:
    """The reports of a file, other tasks' rows left out."""
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet

            models = pyarrow.parquet.read_table(path, columns=["reward_model"]).column(0).to_pylist()
            truths = [model["ground_truth"] for model in models]
        else:
            with path.open(encoding="utf-8") as file:
                truths = [json.loads(line)["ground_truth"] for line in file if line.strip()]
        rows = [json.loads(truth) if isinstance(truth, str) else truth for truth in truths]
        return [row["report"] for row in rows if "report" in row]
    except (OSError, ValueError, KeyError, TypeError) as error:  # pyarrow's errors are such, too
        raise UsageError(f"cannot read references from --file {path}: {error!r}") from error
