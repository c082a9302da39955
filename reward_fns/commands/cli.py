"""Command line: `list` the rewards, `score` a file of answers, `check` a reward of your own, `download` weights."""

import argparse
import sys
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from reward_fns.commands.score import CHUNK, SHOWN_FAILURES, drop_output, read_rows, reading, score_file, writing_to
from reward_fns.errors import UsageError


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return 0 on full success, 1 if rows could not be scored or a check failed, 2 on wrong use."""
    options = _parser().parse_args(argv)
    try:
        status = int(options.run(options))
        with writing_to("standard output"):
            sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader of our output has left, as `head` does
        drop_output()
        return 1
    except (UsageError, OSError) as error:
        if isinstance(error, OSError):
            drop_output()
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m reward_fns",
        description="Rewards for chest X-ray reports and grounding.",
        epilog="example: python -m reward_fns score --rewards box_soft_f1,box_iou --file answers.jsonl",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(run: Callable[[argparse.Namespace], int], help: str, example: str, about: str = "") -> Any:
        name, raw = run.__name__.strip("_"), argparse.RawDescriptionHelpFormatter
        epilog = f"example:{example}".replace(" NAME", f" python -m reward_fns {name}")
        added = commands.add_parser(name, help=help, description=about, epilog=epilog, formatter_class=raw)
        added.set_defaults(run=run)
        return added

    listing = command(_list, "show all rewards, or all presets", " NAME --presets")
    listing.add_argument("--presets", action="store_true", help="show the reward specs that come with the package")
    score = command(
        _score,
        "score a JSON-lines file of answers",
        """\n  echo '{"task": "grounding", "prediction": "[0.35, 0.51, 0.75, 0.64]", "ground_truth":"""
        """ {"boxes": [[0.38, 0.47, 0.76, 0.62]]}}' > in.jsonl\n"""
        "  NAME --rewards box_soft_f1,box_f1@0.5 --file in.jsonl --out out.jsonl",
        "Score a JSON-lines file. A row is an object with task (report or grounding), prediction and ground_truth\n"
        '({"report": ...} or {"boxes": [[x1, y1, x2, y2], ...], "labels": [...]}, corners 0 to 1; or that\n'
        "as a JSON string), and optionally thinking, box_format, width, height and id; box format qwen25vl needs\n"
        "frame, [width, height] of the resized image, in ground_truth. Every row gives one row of output, in order;\n"
        "null stands for a reward of another task. A row that can't be scored gets an error field and makes the exit\n"
        "status 1, as does a reward of weight 0 that fails.",
    )
    _add_rewards(score)
    score.add_argument("--out", type=Path, metavar="JSONL", help="where to write; standard output by default")
    score.add_argument(
        "--box-format", default="radvlm", metavar="NAME", help="box convention of rows that name none (%(default)s)"
    )
    precision = command(
        _precision,
        "measure what a faster precision changes",
        " NAME --preset paper_report --file a.jsonl --engine dtype=bfloat16",
        "Score a JSON-lines file, as for score, in float32 and in another way, and print how many rewards, labels\n"
        "and entities change. Read this before a run trusts it.",
    )
    _add_rewards(precision)
    precision.add_argument(
        "--engine", nargs="+", required=True, metavar="K=V", help="options of the engine, as dtype=bfloat16"
    )
    download = command(
        _download,
        "fetch the weights that rewards need",
        " NAME --rewards radgraph_f1",
        "Fetch the weights that rewards need into the Hugging Face cache (HF_HUB_CACHE, HF_HOME), and print each\n"
        "file's SHA-256, size in bytes and name. For machines without internet, run this on one that shares the\n"
        "cache.",
    )
    which = _add_rewards(download, file=False)
    which.add_argument("--all", action="store_true", help="for every reward with its defaults, and every preset")
    check = command(
        _check,
        "try a reward on good, wrong and odd answers",
        " NAME my_reward.py --options limit=40",
        "Try a reward before a run depends on it: signature, range, odd and very long texts, batches, speed, true\n"
        "answers and shuffled ones. Exit status 1 if something would break a run; warnings are for you to judge.",
    )
    check.add_argument("file", type=Path, nargs="?", metavar="FILE", help="Python file that registers rewards")
    check.add_argument("--name", help="only this one; a built-in needs no FILE")
    check.add_argument("--options", nargs="+", default=[], metavar="K=V", help="its options, values as in YAML")
    return parser


def _add_rewards(parser: argparse.ArgumentParser, file: bool = True) -> Any:
    if file:
        parser.add_argument("--file", type=Path, required=True, metavar="JSONL", help="what to score")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--rewards", metavar="A[,B]", help="names from `list`, each with weight 1")
    which.add_argument("--spec", metavar="FILE", help="reward spec in YAML")
    which.add_argument("--preset", metavar="NAME", help="name from `list --presets`")
    return which


def _list(options: argparse.Namespace) -> int:
    from reward_fns import registry, spec

    if options.presets:
        for preset in spec.preset_names():
            print(preset)
            for task, components in spec.resolve(preset=preset).tasks.items():
                for part in components:
                    print(f"    {task:9}  {part.weight:g} x {part.reward.name}  {_settings(part.options)}".rstrip())
        return 0
    rewards = [registry.get(name) for name in registry.names()]
    rows = [("name", "task", "range", "better", "version", " description")]
    for reward in rewards:
        span = "{:g} to {:g}".format(*reward.range)
        better = "higher" if reward.higher_is_better else "lower"
        rows.append((reward.name, reward.task, span, better, str(reward.version), f" {reward.summary}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    for row, options_of in zip(rows, [{}, *(reward.options for reward in rewards)], strict=True):
        print("  ".join([*(f"{cell:{width}}" for cell, width in zip(row, widths, strict=False)), row[-1]]))
        if options_of:
            print(f"    options: {_settings(options_of)}")
    return 0


def _settings(options: Any) -> str:
    return " ".join(f"{name}={value}" for name, value in options.items())


def _check(options: argparse.Namespace) -> int:
    from reward_fns.commands import check as checking
    from reward_fns.settings import read_pairs

    given = read_pairs("--options", options.options)
    rewards = checking.rewards_of(options.file, options.name)
    sound = [checking.report(reward, checking.check(reward, given)) for reward in rewards]
    return 0 if all(sound) else 1


def _score(options: argparse.Namespace) -> int:
    return score_file(options.file, options.out, _spec(options), options.box_format)


def _precision(options: argparse.Namespace) -> int:
    from reward_fns.engine.precision import Changes
    from reward_fns.settings import parse

    changes = Changes(_spec(options), parse(options.engine))
    if not changes.spec.tasks:
        raise UsageError("none of these rewards has a model, whose precision could be changed")
    wrong: list[str] = []
    with reading(options.file) as source:
        rows = read_rows(source, str(options.file), "radvlm")
        while chunk := list(islice(rows, CHUNK)):
            wrong += [f"line {row.line}: {row.content}" for row in chunk if isinstance(row.content, str)]
            rollouts = (row.content for row in chunk if not isinstance(row.content, str))
            changes.add([rollout for rollout in rollouts if rollout.extra_info["task"] in changes.spec.tasks])
    print("\n".join(changes.lines()))
    for failure in (wrong + changes.failures)[:SHOWN_FAILURES]:
        print(failure, file=sys.stderr)
    return 1 if wrong or changes.failures else 0


def _spec(options: argparse.Namespace) -> Any:
    from reward_fns.spec import of_rewards, resolve

    if options.rewards is not None:
        return of_rewards(name.strip() for name in options.rewards.split(","))
    return resolve(spec=options.spec, preset=options.preset)


def _download(options: argparse.Namespace) -> int:
    from reward_fns import registry
    from reward_fns.models.weights import download
    from reward_fns.spec import of_rewards, preset_names, resolve

    if not options.all:
        return 1 if download([_spec(options)]) else 0
    presets = (resolve(preset=name) for name in preset_names())
    return 1 if download([of_rewards(registry.names()), *presets]) else 0
