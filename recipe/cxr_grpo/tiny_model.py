"""Write the demo's Qwen3-VL: with random weights, or trained until it looks at the film.

The checkpoint in `recipe/cxr_grpo/demo/model` was made by this command with --pretrain.
"""

import argparse
import sys

from data_prep.options import folder, positive
from recipe.cxr_grpo.demo import architecture, pretraining
from recipe.cxr_grpo.running.training import exit_status, progress


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m recipe.cxr_grpo.tiny_model",
        description="Write a tiny Qwen3-VL with random weights, or with --pretrain one that looks at the demo's films.",
        epilog="example: python -m recipe.cxr_grpo.tiny_model --pretrain --out runs/demo_model",
    )
    parser.add_argument("--out", type=folder, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights, and of --pretrain (%(default)s)")
    parser.add_argument("--hidden-size", type=positive, default=128, help="width, a multiple of 64 (%(default)s)")
    parser.add_argument("--layers", type=positive, default=4, help="layers of the language model (%(default)s)")
    side = "side of a square in pixels (%(default)s)"
    parser.add_argument("--image-side", type=positive, default=architecture.IMAGE_SIDE, help=side)
    parser.add_argument("--vocab-size", type=positive, default=2048, help="most tokens of the vocabulary (%(default)s)")
    pretrain = "train it on generated films, measure whether it looks at them, and write a model card"
    parser.add_argument("--pretrain", action="store_true", help=pretrain)
    steps, patients = "supervised steps, with --pretrain (%(default)s)", "demo patients, with --pretrain (%(default)s)"
    parser.add_argument("--steps", type=positive, default=pretraining.STEPS, help=steps)
    parser.add_argument("--patients", type=positive, default=pretraining.PATIENTS, help=patients)
    args = parser.parse_args(argv)
    for option, value, unit in (
        ("--hidden-size", args.hidden_size, 64),
        ("--image-side", args.image_side, architecture.CELL),
    ):
        if value % unit:
            parser.error(f"{option} must be a multiple of {unit}, got {value}")
    return exit_status("tiny_model", lambda: write(args))


def write(args: argparse.Namespace) -> None:
    """Write the model that the options ask for."""
    size = {name: getattr(args, name) for name in ("hidden_size", "layers", "image_side", "vocab_size")}
    if args.pretrain:
        with progress("sft", args.steps, "train/loss") as watch:
            training = {name: getattr(args, name) for name in ("seed", "steps", "patients")}
            pretraining.pretrain(args.out.absolute(), **training, size=size, watch=watch)
        print(f"{args.out}: see its README.md for the loss curve, and for what it earns on its own and on other films")
        return
    parameters = architecture.write_random(args.out, args.seed, **size)
    print(f"{args.out}: Qwen3-VL with {parameters / 1e6:.2f} M parameters", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
