"""The paper's tables, and plots, from results folders of `evaluate`, with intervals over patients; or check them."""

import argparse
import shlex
import sys
from pathlib import Path

from data_prep.options import folder, positive
from recipe.cxr_grpo.results import evaluations, plots, tables
from recipe.cxr_grpo.running.training import exit_status
from reward_fns.errors import UsageError


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m recipe.cxr_grpo.tables",
        description=__doc__,
        epilog="example: python -m recipe.cxr_grpo.tables results/ --baseline RadVLM --out tables/",
    )
    home = "folders with results folders in them; changes on the first data set are compared with those on the others"
    parser.add_argument("results", type=Path, nargs="*", metavar="RESULTS", help=home)
    parser.add_argument("--out", type=folder, help="folder for TABLE.md, TABLE.tex, TABLE.csv and the plots")
    parser.add_argument("--baseline", metavar="MODEL", help="test every other model against this one")
    parser.add_argument("--table", choices=[*tables.PAPER["tables"], "all"], default="all", help="(%(default)s)")
    parser.add_argument("--resamples", type=positive, default=2000, help="bootstrap draws (%(default)s)")
    parser.add_argument("--run", type=folder, nargs="+", default=[], help="runs of GRPO whose curves are drawn, too")
    parser.add_argument("--verify", type=folder, nargs="+", metavar="RESULTS", help="check folders, and make nothing")
    args = parser.parse_args(argv)
    command = shlex.join(["python", "-m", "recipe.cxr_grpo.tables", *(sys.argv[1:] if argv is None else argv)])
    return exit_status("tables", lambda: _verify(args.verify) if args.verify else _make(args, command))


def _make(args: argparse.Namespace, command: str) -> None:
    if not args.out or not (args.results or args.run):
        raise UsageError("name results folders, or runs with --run, and the folder to write to with --out")
    read = evaluations.read_evaluations(args.results) if args.results else []
    args.out.mkdir(parents=True, exist_ok=True)
    chosen = {name: of["task"] for name, of in tables.PAPER["tables"].items() if args.table in ("all", name)}
    read = [found for found in read if found.facts["task"] in chosen.values()]
    for name, task in chosen.items():
        if any(found.facts["task"] == task for found in read):
            for suffix, text in tables.make(read, name, args.baseline, args.resamples, command).items():
                (args.out / f"{name}.{suffix}").write_text(text, encoding="utf-8")
                print(args.out / f"{name}.{suffix}", flush=True)
    if not (marked := tables.film_dependent(read)).empty:
        marked.to_csv(path := args.out / "film_dependent.csv", index=False, float_format="%.6g", lineterminator="\n")
        print(path)
    print(*plots.draw(read, args.run, args.out), sep="\n")


def _verify(paths: list[Path]) -> int:
    """Print what agrees, as a table; returns 1 if anything differs."""
    differ = 0
    print("| folder | what | stated | found | |\n|---|---|---|---|---|")
    for evaluation in evaluations.read_evaluations(paths):
        for what, stated, found, agrees in evaluations.verify(evaluation):
            differ += not agrees
            verdict = ("not checked" if found is None else "agrees") if agrees else "DIFFERS"
            line = f"| {evaluation.folder} | {what} | {stated} | {found} | {verdict} |"
            print("".join(character if character.isprintable() else "?" for character in line))
    print(f"{differ} differ" if differ else "all that can be checked agrees")
    return int(bool(differ))


if __name__ == "__main__":
    sys.exit(main())
