"""Command line: `list` the rewards, `score` a file of answers, `check` a reward of your own, `download` weights."""

import argparse
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

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
    texts = yaml.safe_load(Path(__file__).with_name("help.yaml").read_text(encoding="utf-8"))
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m reward_fns", formatter_class=raw, **texts["program"])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for run in (_list, _score, _precision, _download, _check):
        name = run.__name__.strip("_")
        options = texts[name].pop("options")
        command = commands.add_parser(name, formatter_class=raw, **texts[name])
        command.set_defaults(run=run)
        which = command.add_mutually_exclusive_group(required=True) if "--rewards" in options else command
        for flag, settings in options.items():
            group = which if flag in ("--rewards", "--spec", "--preset", "--all") else command
            path: dict[str, Any] = {"type": Path} if flag in ("file", "--file", "--out") else {}
            group.add_argument(flag, **path, **settings)
    return parser


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
    widths = [*(max(map(len, column)) for column in list(zip(*rows, strict=True))[:-1]), 0]
    for row, options_of in zip(rows, [{}, *(reward.options for reward in rewards)], strict=True):
        print(*(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)), sep="  ")
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

    presets = (resolve(preset=name) for name in preset_names())
    specs = [of_rewards(registry.names()), *presets] if options.all else [_spec(options)]
    return 1 if download(specs) else 0
