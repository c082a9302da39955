"""Look at what a model wrote and drew: one HTML page that fetches nothing, or a view for the terminal of a login node.

SOURCE is the folder of a run (rollouts/STEP.jsonl, validation/STEP.jsonl), one of these files, or a folder of evaluate.
"""

import argparse
import sys
from pathlib import Path

from data_prep.options import positive
from recipe.cxr_grpo.running.training import exit_status
from recipe.cxr_grpo.viewing import page, terminal


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m recipe.cxr_grpo.viewer",
        description=__doc__,
        epilog="example: python -m recipe.cxr_grpo.viewer runs/quickstart --out answers.html",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("sources", type=Path, nargs="+", metavar="SOURCE", help="a run, a dump, or a results folder")
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--out", type=Path, metavar="PAGE", help="the HTML file to write")
    way.add_argument("--terminal", action="store_true", help="show the answers here, without films, worst first")
    data = "parquet files for RL with the films of a run, or folders of them (RUN/data is looked at anyway)"
    parser.add_argument("--data", type=Path, nargs="+", default=[], metavar="PARQUET", help=data)
    most = "most answers to show; drawn by sample if there are more (%(default)s)"
    parser.add_argument("--samples", type=positive, default=page.SAMPLES, metavar="N", help=most)
    parser.add_argument("--seed", type=int, default=0, help="another seed draws others (%(default)s)")
    args = parser.parse_args(argv)
    return exit_status("viewer", lambda: _view(args))


def _view(args: argparse.Namespace) -> None:
    if args.terminal:
        terminal.view(args.sources, args.samples, args.seed)
        return
    shown = page.write_page(args.out, args.sources, args.data, args.samples, args.seed)
    print(f"{args.out}: {shown}")


if __name__ == "__main__":
    sys.exit(main())
