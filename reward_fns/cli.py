"""Command line: `list` the rewards, `score` a file of answers, `check` a reward of one's own, `download` weights."""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import math
import os
import stat
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TextIO

from reward_fns.errors import UsageError

_CHUNK = 512  # rows scored together: enough for batched rewards, few enough that the bar moves
_SHOWN_FAILURES = 20


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; see `python -m reward_fns --help`.

    Args:
        argv: arguments, the process's own by default.

    Returns:
        exit status: 0 on full success, 1 if rows could not be scored or a check failed, 2 on wrong use.
    """
    options = _parser().parse_args(argv)
    try:
        status = int(options.run(options))
        sys.stdout.flush()
        return status
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        # Keep Python from tripping over what is left to write once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # whoever read our output has left, as `head` does
            return 1
        print(f"error: cannot write the output: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m reward_fns",
        description="Rewards for chest X-ray reports and grounding.",
        epilog="example: python -m reward_fns score --rewards box_soft_f1,box_iou --file answers.jsonl",
        formatter_class=raw,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    listing = commands.add_parser(
        "list", help="show all rewards, or all presets", epilog="example: python -m reward_fns list --presets"
    )
    listing.add_argument("--presets", action="store_true", help="show the reward specs that come with the package")
    listing.set_defaults(run=_list)
    score = commands.add_parser(
        "score",
        help="score a JSON-lines file of answers",
        description=(
            "Score a JSON-lines file. A row is an object with task (report or grounding), prediction and ground_truth\n"
            '({"report": ...} or {"boxes": [[x1, y1, x2, y2], ...], "labels": [...]}, corners 0 to 1; or that\n'
            "as a JSON string), and optionally thinking, box_format, width, height and id. Every row gives one row of\n"
            "output, in order; null stands for a reward of another task. A row that can't be scored gets an error\n"
            "field and makes the exit status 1."
        ),
        epilog=(
            "example:\n"
            """  echo '{"task": "grounding", "prediction": "[0.35, 0.51, 0.75, 0.64]", "ground_truth":"""
            """ {"boxes": [[0.38, 0.47, 0.76, 0.62]]}}' > in.jsonl\n"""
            "  python -m reward_fns score --rewards box_soft_f1,box_f1@0.5 --file in.jsonl --out out.jsonl"
        ),
        formatter_class=raw,
    )
    which = score.add_mutually_exclusive_group(required=True)
    which.add_argument("--rewards", metavar="A[,B]", help="names from `list`, each with weight 1")
    which.add_argument("--spec", metavar="FILE", help="reward spec in YAML")
    which.add_argument("--preset", metavar="NAME", help="name from `list --presets`")
    score.add_argument("--file", type=Path, required=True, metavar="JSONL", help="what to score")
    score.add_argument("--out", type=Path, metavar="JSONL", help="where to write; standard output by default")
    score.add_argument(
        "--box-format", default="radvlm", metavar="NAME", help="box convention of rows that name none (%(default)s)"
    )
    score.set_defaults(run=_score)
    precision = commands.add_parser(
        "precision",
        help="measure what a faster precision changes",
        description=(
            "Score a JSON-lines file, as for score, in float32 and in another way, and print how many rewards, labels\n"
            "and entities change. Read this before a run trusts it."
        ),
        epilog="example: python -m reward_fns precision --preset paper_report --file a.jsonl --engine dtype=bfloat16",
        formatter_class=raw,
    )
    which = precision.add_mutually_exclusive_group(required=True)
    which.add_argument("--rewards", metavar="A[,B]", help="names from `list`")
    which.add_argument("--spec", metavar="FILE", help="reward spec in YAML")
    which.add_argument("--preset", metavar="NAME", help="name from `list --presets`")
    precision.add_argument("--file", type=Path, required=True, metavar="JSONL", help="what to score")
    precision.add_argument(
        "--engine", nargs="+", required=True, metavar="K=V", help="options of the engine, as dtype=bfloat16"
    )
    precision.set_defaults(run=_precision)
    download = commands.add_parser(
        "download",
        help="fetch the weights that rewards need",
        description=(
            "Fetch the weights that rewards need into the Hugging Face cache (HF_HUB_CACHE, HF_HOME), and print each\n"
            "file's SHA-256, size in bytes and name. For machines without internet, run this on one that shares the\n"
            "cache."
        ),
        epilog="example: python -m reward_fns download --rewards radgraph_f1",
        formatter_class=raw,
    )
    which = download.add_mutually_exclusive_group(required=True)
    which.add_argument("--all", action="store_true", help="for every reward as it is by default, and every preset")
    which.add_argument("--rewards", metavar="A[,B]", help="names from `list`")
    which.add_argument("--spec", metavar="FILE", help="reward spec in YAML, with its options")
    which.add_argument("--preset", metavar="NAME", help="name from `list --presets`")
    download.set_defaults(run=_download)
    check = commands.add_parser(
        "check",
        help="try a reward on good, wrong and odd answers",
        description=(
            "Try a reward before a run depends on it: signature, range, odd and very long texts, batches, speed, true\n"
            "answers and shuffled ones. Exit status 1 if something would break a run; warnings are for you to judge."
        ),
        epilog="example: python -m reward_fns check my_reward.py --options limit=40",
        formatter_class=raw,
    )
    check.add_argument("file", type=Path, nargs="?", metavar="FILE", help="Python file that registers rewards")
    check.add_argument("--name", help="only this one; a built-in needs no FILE")
    check.add_argument("--options", nargs="+", default=[], metavar="K=V", help="its options, values as in YAML")
    check.set_defaults(run=_check)
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
    heads = ("name", "task", "range", "better", "version")
    rows = [
        (entry.name, entry.task, f"{low:g} to {high:g}", "higher" if entry.higher_is_better else "lower",
         str(entry.version), entry)
        for entry in map(registry.get, registry.names())
        for low, high in [entry.range]
    ]  # fmt: skip
    widths = [max(len(str(row[column])) for row in [heads, *rows]) for column in range(len(heads))]
    print("  ".join(f"{head:{width}}" for head, width in zip(heads, widths, strict=True)), " what it is")
    for *cells, entry in rows:
        print("  ".join(f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True)), f" {entry.summary}")
        if entry.options:
            print(f"    options: {_settings(entry.options)}")
    return 0


def _settings(options: Any) -> str:
    return " ".join(f"{name}={value}" for name, value in options.items())


def _check(options: argparse.Namespace) -> int:
    import yaml

    from reward_fns import checking

    given = {}
    for text in options.options:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--options takes name=value, got {text!r}")
        try:
            given[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UsageError(f"--options: {value!r} is not a value in YAML") from error
    rewards = checking.rewards_of(options.file, options.name)
    sound = [checking.report(reward, checking.check(reward, given)) for reward in rewards]
    return 0 if all(sound) else 1


class _Row(NamedTuple):
    line: int
    id: Any
    content: Any  # a Rollout, or why there is none
    size: int


class _Summary:
    """Means per task and key, and the rows that failed."""

    def __init__(self) -> None:
        self.values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        self.failures: list[str] = []

    def write(self, file: TextIO) -> None:
        for task, keys in sorted(self.values.items()):
            print(f"{task}: {len(keys['score'])} rows, means:", file=file)
            for key, values in keys.items():
                if values:
                    print(f"    {key:20} {math.fsum(values) / len(values):10.4f}", file=file)
        if self.failures:
            print(f"{len(self.failures)} rows could not be scored:", file=file)
            for failure in self.failures[:_SHOWN_FAILURES]:
                print(f"    {failure}", file=file)
            if len(self.failures) > _SHOWN_FAILURES:
                print(f"    ... and {len(self.failures) - _SHOWN_FAILURES} more", file=file)


def _score(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from reward_fns.conventions import get_convention
    from reward_fns.scoring import result_keys, score_batch

    spec = _spec(options)
    get_convention(options.box_format)
    nothing = dict.fromkeys(result_keys(spec))
    summary = _Summary()
    with _reading(options.file) as source, _writing(options.out) as target:
        size = os.fstat(source.fileno()).st_size
        bar = tqdm(total=size, unit="B", unit_scale=True, desc="score", disable=not sys.stderr.isatty())
        rows = _rows(source, str(options.file), options.box_format)
        while chunk := list(islice(rows, _CHUNK)):
            results = iter(score_batch([row.content for row in chunk if not isinstance(row.content, str)], spec))
            for row in chunk:
                result = row.content if isinstance(row.content, str) else next(results)
                record: dict[str, Any] = {} if row.id is None else {"id": row.id}
                if isinstance(result, dict):
                    record |= {key: None if math.isnan(value) else value for key, value in result.items()}
                    means = summary.values[row.content.extra_info["task"]]
                    for key, value in result.items():
                        means[key] += [] if math.isnan(value) else [value]
                else:
                    record |= nothing | {"error": str(result)}
                    summary.failures.append(f"line {row.line}: {result}")
                target.write(json.dumps(record) + "\n")
                bar.update(row.size)
        bar.close()
    summary.write(sys.stderr)
    return 1 if summary.failures else 0


def _precision(options: argparse.Namespace) -> int:
    from reward_fns.engine.precision import Changes
    from reward_fns.settings import parse

    changes = Changes(_spec(options), parse(options.engine))
    if not changes.spec.tasks:
        raise UsageError("none of these rewards has a model, whose precision could be changed")
    wrong: list[str] = []
    with _reading(options.file) as source:
        rows = _rows(source, str(options.file), "radvlm")
        while chunk := list(islice(rows, _CHUNK)):
            wrong += [f"line {row.line}: {row.content}" for row in chunk if isinstance(row.content, str)]
            changes.add([
                row.content for row in chunk
                if not isinstance(row.content, str) and row.content.extra_info["task"] in changes.spec.tasks
            ])  # fmt: skip
    print("\n".join(changes.lines()))
    for failure in (wrong + changes.failures)[:_SHOWN_FAILURES]:
        print(failure, file=sys.stderr)
    return 1 if wrong or changes.failures else 0


def _spec(options: argparse.Namespace) -> Any:
    from reward_fns.spec import of_rewards, resolve

    if options.rewards is not None:
        return of_rewards(name.strip() for name in options.rewards.split(","))
    return resolve(spec=options.spec, preset=options.preset)


def _download(options: argparse.Namespace) -> int:
    from reward_fns import registry
    from reward_fns.models.download import download
    from reward_fns.spec import of_rewards, preset_names, resolve

    if options.all:
        specs = [of_rewards(registry.names()), *(resolve(preset=name) for name in preset_names())]
    else:
        specs = [_spec(options)]
    return 1 if download(specs) else 0


def _rows(lines: Iterable[bytes], source: str, box_format: str) -> Iterator[_Row]:
    from reward_fns.scoring import Rollout

    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row_id: Any = None
        content: Any = None
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("need a JSON object")
            row_id = row.get("id")
            missing = [key for key in ("task", "prediction", "ground_truth") if key not in row]
            if missing:
                raise ValueError(f"has no {missing[0]}")
            if not isinstance(row.get("thinking"), bool | None):
                raise ValueError(f"thinking must be true or false, got {row['thinking']!r}")
            info = {key: row.get(key) for key in ("task", "thinking", "width", "height")}
            info |= {"box_format": row.get("box_format") or box_format}
            info |= {"id": f"line {number}" if row_id is None else row_id}
            content = Rollout(source, row["prediction"], row["ground_truth"], info)
        except (ValueError, RecursionError) as error:  # not JSON or not UTF-8 is a ValueError
            content = f"not a row to score: {error}"
        yield _Row(number, row_id, content, len(line))


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[BinaryIO]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise UsageError(f"cannot read --file {path}: {error.strerror}") from error
    with file:
        yield file


@contextlib.contextmanager
def _writing(path: Path | None) -> Iterator[TextIO]:
    """Standard output, or a file that is there only once it is complete."""
    if path is None:
        yield sys.stdout
        return
    place = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        # A device such as /dev/null is written to, not replaced by a file.
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            place = path
        with place.open("w", encoding="utf-8") as file:
            yield file
        if place != path:
            place.replace(path)
    except OSError as error:
        hint = "; free some space or choose another disk" if error.errno == errno.ENOSPC else ""
        raise UsageError(f"cannot write --out {path}: {error.strerror}{hint}") from error
    finally:
        if place != path:
            with contextlib.suppress(OSError):
                place.unlink()
