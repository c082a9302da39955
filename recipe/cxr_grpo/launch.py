"""Start verl's own trainers, unmodified, with this recipe's configs: check first, run, leave no process behind."""

import argparse
import sys
from pathlib import Path

from data_prep.options import folder, positive
from recipe.cxr_grpo.records.checkpoints import newest
from recipe.cxr_grpo.results.metrics import component_means, failure_note, read_failures, read_metrics
from recipe.cxr_grpo.running import processes
from recipe.cxr_grpo.running.failures import RunFailed
from recipe.cxr_grpo.running.merging import sharded
from recipe.cxr_grpo.running.start import TRAINERS, first_node
from recipe.cxr_grpo.running.training import STARTUP_LIMIT, exit_status, run_training


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m recipe.cxr_grpo.launch",
        description="Check and run one of verl's trainers with this recipe's config; no process is left behind. "
        "All other arguments are Hydra overrides for verl.",
        epilog="example: python -m recipe.cxr_grpo.launch grpo --out runs/mine data.train_files=/data/train.parquet "
        "data.val_files=/data/val.parquet actor_rollout_ref.model.path=/models/tiny",
    )
    parser.add_argument("kind", choices=sorted(TRAINERS), help="the trainer")
    parser.add_argument("--out", type=folder, required=True, help="folder for log, metrics, checkpoints and dumps")
    parser.add_argument("--config-name", help="config of this recipe (quickstart_<kind>)")
    again = "after a failure, go on from the newest sound checkpoint, at most N times"
    parser.add_argument("--restarts", type=positive, default=0, metavar="N", help=again)
    late = "how long the trainer may load models before it shows a sign of life (%(default)s)"
    parser.add_argument("--startup-limit", type=positive, default=STARTUP_LIMIT, metavar="MINUTES", help=late)
    parser.add_argument("--no-merge", action="store_true", help="make no folder OUT/model of the last checkpoint")
    args, overrides = parser.parse_known_args(argv)
    kind, out = args.kind, args.out.absolute()
    folders = {"trainer.default_local_dir": out / "checkpoints"}
    if kind == "grpo":
        folders |= {"trainer.validation_data_dir": out / "validation", "trainer.rollout_data_dir": out / "rollouts"}
    given = {override.split("=")[0].lstrip("+") for override in overrides}
    overrides = [f"{key}={value}" for key, value in folders.items() if key not in given] + overrides
    print(f"{kind}: output in {out / f'{kind}.log'}", file=sys.stderr)
    printed: set[int] = set()
    failed: set[tuple[int, str]] = set()
    checkpoints = Path(dict(item.partition("=")[::2] for item in overrides)["trainer.default_local_dir"])

    def print_steps() -> None:
        for step, logged in read_metrics(out, kind).items():
            if step not in printed and (means := component_means(logged)):
                printed.add(step)
                print(f"step {step}: " + ", ".join(f"{name} {mean:.3f}" for name, mean in means.items()), flush=True)
        for row in read_failures(checkpoints):
            if (row["step"], row["part"]) not in failed:
                failed.add((row["step"], row["part"]))
                print(f"step {row['step']}, {row['part']}: {failure_note(row)}", flush=True)

    config_name = args.config_name or f"quickstart_{kind}"
    options = {"out": out, "watch": print_steps, "restarts": args.restarts, "startup_limit": args.startup_limit}

    def work() -> None:
        run_training(kind, config_name, overrides, **options)
        if not args.no_merge:
            merge_last(kind, out, checkpoints)

    return exit_status("launch", work)


def merge_last(kind: str, out: Path, checkpoints: Path) -> None:
    """Make ``out/model`` of a finished run whose last step is saved; RunFailed."""
    step, model, log = newest(checkpoints), out / "model", out / "merge.log"
    if step < max(read_metrics(out, kind), default=0):
        print(f"no {model}: the last step was not saved", file=sys.stderr)
    elif first_node(kind) and sharded(checkpoint := checkpoints / f"global_step_{step}"):
        print(f"{kind}: done; the model of step {step} goes to {model}", file=sys.stderr)
        command = [sys.executable, "-m", "recipe.cxr_grpo.merge", str(checkpoint), str(model)]
        if processes.run(command, log=log):
            last = log.read_text(errors="replace").strip().rpartition("\n")[2]
            raise RunFailed(f"the training is complete, but its model could not be made, see {log}: {last}")


if __name__ == "__main__":
    sys.exit(main())
