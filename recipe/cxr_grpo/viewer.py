"""Look at what a model wrote and drew: a page that fetches nothing, or a view for the terminal of a login node."""

import argparse
import sys
from pathlib import Path

from data_prep.options import positive
from recipe.cxr_grpo.running.training import exit_status
from recipe.cxr_grpo.viewing import page, terminal


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    example = "example: %(prog)s runs/quickstart --data runs/quickstart/data --out answers.html"
    parser = argparse.ArgumentParser("python -m recipe.cxr_grpo.viewer", description=__doc__, epilog=example)
    source = "a run (rollouts/STEP.jsonl, validation/STEP.jsonl), one of these files, or a folder of evaluate"
    parser.add_argument("sources", type=Path, nargs="+", metavar="SOURCE", help=source)
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--out", type=Path, metavar="PAGE", help="the HTML file to write")
    way.add_argument("--terminal", action="store_true", help="show the answers here, without films, worst first")
    data = "parquet files for RL, or folders of them, with the films of runs"
    parser.add_argument("--data", type=Path, nargs="+", default=[], metavar="PARQUET", help=data)
    most = "most answers to show; drawn by sample if there are more (%(default)s)"
    parser.add_argument("--samples", type=positive, default=page.SAMPLES, metavar="N", help=most)
    parser.add_argument("--seed", type=int, default=0, help="another seed draws others (%(default)s)")
    args = parser.parse_args(argv)

    def view() -> None:
        if args.terminal:
            return terminal.view(args.sources, args.samples, args.seed)
        print(f"{args.out}: {page.write_page(args.out, args.sources, args.data, args.samples, args.seed)}")

    return exit_status("viewer", view)


if __name__ == "__main__":
    sys.exit(main())
