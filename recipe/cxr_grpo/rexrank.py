"""ReXrank, the public leaderboard of chest X-ray reports: its studies in, answers and a submission out.

`import` makes questions for `generate` of one of its JSON files, `export` writes that file with the answers, and
`package` writes a folder to submit. Exit status 1: a study can't be used.
"""

import argparse
import sys
from pathlib import Path

from data_prep.options import add_options, folder, positive
from data_prep.problems import Problems
from data_prep.writer.dataset import MAX_PIXELS, MIN_PIXELS, DatasetWriter
from data_prep.writer.rows import THINK
from recipe.cxr_grpo.evaluation import rexrank
from recipe.cxr_grpo.evaluation.generation import PREDICTIONS
from recipe.cxr_grpo.evaluation.models import choose
from recipe.cxr_grpo.running.training import exit_status


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m recipe.cxr_grpo.rexrank",
        description=__doc__,
        epilog="example: python -m recipe.cxr_grpo.rexrank import ReXRank_IUXray_test.json --img-root iu_xray/images "
        "--out data/rexrank",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    asked = argparse.ArgumentParser(add_help=False)
    asked.add_argument("--kind", choices=[*rexrank.QUESTIONS], default="findings", help="what is asked (%(default)s)")
    asked.add_argument("--thinking", action="store_true", help="the answer follows a reasoning trace")
    asked.add_argument("--suffix", default=THINK, help="of questions with --thinking (default:%(default)s)")
    asked.add_argument("--min-pixels", type=positive, default=MIN_PIXELS, help="of a film (%(default)s)")
    asked.add_argument("--max-pixels", type=positive, default=MAX_PIXELS, help="of a film (%(default)s)")
    read = commands.add_parser("import", parents=[asked], help="make test.parquet of ReXrank's studies")
    read.add_argument("file", type=Path, help="ReXRank_IUXray_test.json or another of them")
    read.add_argument("--img-root", type=Path, required=True, help="folder of the images")
    read.add_argument("--out", type=folder, required=True, help="folder for test.parquet")
    add_options(read, "images")
    read.set_defaults(run=_import)
    write = commands.add_parser("export", help="write ReXrank's studies with the answers")
    write.add_argument("predictions", type=Path, help=f"{PREDICTIONS}, or the folder that generate wrote it to")
    write.add_argument("--input", type=Path, required=True, help="the file that was imported")
    write.add_argument("--out", type=Path, required=True, help="JSON file to write")
    write.add_argument("--thinking", action="store_true", help="the answer is what follows </think>")
    write.set_defaults(run=_export)
    pack = commands.add_parser("package", parents=[asked], help="write a folder to submit")
    pack.add_argument("model", type=choose, help="as --model of generate")
    pack.add_argument("--out", type=folder, required=True, help="folder to write")
    pack.set_defaults(run=rexrank.package)
    return exit_status("rexrank", lambda: (args := parser.parse_args(argv)).run(args))


def _import(args: argparse.Namespace) -> int:
    problems = Problems()
    bounds = {"min_pixels": args.min_pixels, "max_pixels": args.max_pixels}
    with DatasetWriter(args.out, thinking=args.thinking, suffix=args.suffix, **bounds) as writer:
        rexrank.import_studies(args, writer, problems)
        if problems.found:
            writer.add_text("problems.jsonl", problems.json_lines(), mode=0o600)
    print(f"{args.out / 'test.parquet'}: {sum(writer.counts.values())} studies\n{problems.summary()}".rstrip())
    return int(bool(problems.found))


def _export(args: argparse.Namespace) -> None:
    path = args.predictions / PREDICTIONS if args.predictions.is_dir() else args.predictions
    print(f"{args.out}: {rexrank.export(path, args.input, args.out, thinking=args.thinking)} studies")


if __name__ == "__main__":
    sys.exit(main())
