"""Make the model of a checkpoint, in Hugging Face format and bf16; LoRA adapters are added to the weights."""

import argparse
import sys

from data_prep.options import folder
from recipe.cxr_grpo.running.merging import merge
from recipe.cxr_grpo.running.training import exit_status


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m recipe.cxr_grpo.merge",
        description=__doc__,
        epilog="example: python -m recipe.cxr_grpo.merge runs/mine/checkpoints/global_step_300 runs/mine/model",
    )
    parser.add_argument("checkpoint", type=folder, help="the folder global_step_N of a GRPO or SFT run")
    parser.add_argument("out", type=folder, help="folder for the model; one of another checkpoint is replaced")
    args = parser.parse_args(argv)
    return exit_status("merge", lambda: print(merge(args.checkpoint, args.out)))


if __name__ == "__main__":
    sys.exit(main())
