"""Does a model look at the film? `write` the same questions on other films, and `show` what a run earned on both.

Give the files that `write` makes to verl beside the others, in data.val_files: each validation then answers both.
"""

import argparse
import sys
from pathlib import Path

from data_prep.checks.row import is_sft
from data_prep.options import folder
from data_prep.writer.staging import read_schema
from recipe.cxr_grpo.results import films, validation
from recipe.cxr_grpo.running.training import exit_status
from reward_fns.errors import UsageError


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m recipe.cxr_grpo.films",
        description=__doc__,
        epilog="example: python -m recipe.cxr_grpo.films write data/mine/val.parquet --out data/mine/films",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    write = commands.add_parser("write", help="write the same questions on other films")
    write.add_argument("files", type=Path, nargs="+", help="parquet files for RL, such as val.parquet")
    write.add_argument("--out", type=folder, required=True, help="folder for FILE-CONTROL.parquet")
    controls = "swapped: another patient's; same_finding: one with the same finding; blank: gray (default: swapped)"
    write.add_argument("--control", nargs="+", choices=films.CONTROLS, default=["swapped"], help=controls)
    write.add_argument("--seed", type=int, default=0, help="another seed draws other films (%(default)s)")
    write.set_defaults(run=_write)
    show = commands.add_parser("show", help="show what a run earned on its own films and on the others")
    show.add_argument("run_folder", type=Path, metavar="RUN", help="folder of a run, with validation/STEP.jsonl")
    show.set_defaults(run=_show)
    args = parser.parse_args(argv)
    return exit_status("films", lambda: args.run(args))


def _write(args: argparse.Namespace) -> None:
    for source in args.files:
        if not source.is_file():
            raise UsageError(f"{source}: no such file; give a parquet file for RL, as python -m data_prep writes it")
        if is_sft(read_schema(source)):
            raise UsageError(f"{source} is for supervised training; give a file for RL, such as val.parquet")
    for path in films.write_controls(args.files, args.out, args.control, args.seed):
        print(path)


def _show(args: argparse.Namespace) -> None:
    dumps = sorted((args.run_folder / "validation").glob("*.jsonl"), key=lambda path: int(path.stem))
    if not dumps:
        raise UsageError(
            f"{args.run_folder / 'validation'} has no validation; set trainer.validation_data_dir in the run"
        )
    for dump in dumps:
        rows = validation.read_validation(dump)
        for control in rows.keys() - {validation.OWN}:
            for task, found in films.film_dependence(rows[validation.OWN], rows[control]).items():
                gap = found["difference"]
                interval = "95 % interval {:+.3f} to {:+.3f}, n={}".format(*gap["ci95"], gap["n"])
                means = f"own film {found['own']:.3f}, {control} {found[control]:.3f}"
                print(f"step {dump.stem}, {task}: {means}, difference {gap['mean']:+.3f} ({interval})")
        if rows.keys() == {validation.OWN}:
            raise UsageError(
                f"{dump} has no other films; make them with the command write, and add them to data.val_files"
            )


if __name__ == "__main__":
    sys.exit(main())
