"""Try a reward on good, wrong and odd answers before a run depends on it: the command `check`."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, Literal, NamedTuple

import yaml

from reward_fns.calling import Counts, counts, forget, waits
from reward_fns.errors import UsageError
from reward_fns.registry import TASKS, Reward, get, load_file, names
from reward_fns.rollout import Rollout
from reward_fns.scoring import Result, result_keys, score_batch
from reward_fns.settings import FailureRules
from reward_fns.spec import Component, RewardSpec

Status = Literal["pass", "warn", "fail"]

_SAMPLES = yaml.safe_load(Path(__file__).with_name("samples.yaml").read_text(encoding="utf-8"))
_ODD = (*_SAMPLES["odd"], "[0.1, 0.2, 0.4, 0.5] " * 300, "No. " * 25_000, "x" * 100_000)


class Finding(NamedTuple):
    """The result of one check: "fail" if it would break a run, "warn" if it may be intended."""

    what: str
    status: Status
    detail: str


def rewards_of(file: Path | None, name: str | None) -> list[Reward]:
    """The rewards to check: all that a file registers, or the one of that name. Raises UsageError if there is none."""
    path = file and file.expanduser().resolve()
    if path is not None:
        load_file(path)
    elif name is None:
        raise UsageError("give a file, as in python -m reward_fns check my_reward.py, or --name")
    if name is not None:
        return [get(name)]
    rewards = [entry for entry in map(get, names()) if entry.where.rpartition(":")[0] == str(path)]
    if not rewards:
        raise UsageError(f"{file} registers no reward; put @reward(name, task=..., range=...) above its function")
    return rewards


def check(reward: Reward, options: Mapping[str, Any]) -> Iterator[Finding]:
    """Try a reward on invented samples, through the same code that a run uses.

    >>> [finding.status for finding in check(get("gleu"), {})]
    ['pass', 'pass', 'pass', 'pass', 'pass', 'pass', 'pass', 'pass']
    """
    options = reward.check_options(options)
    spec = RewardSpec(
        {task: (Component(reward, 1.0, options),) for task in reward.tasks},
        # One retry, alone: a batch that fails does not hide which of its samples is to blame.
        failures=FailureRules(retries=1, backoff=0.0, stop_after=1_000_000),
    )
    gold, swapped = ([sample for task in reward.tasks for sample in _samples(task, shift)] for shift in (0, 1))
    definition = f"{reward.where}; options {', '.join(reward.options) or 'none'}"
    hint = "" if reward.summary else "; no docstring: say what it rewards, its range and its weak spots"
    yield Finding("signature", "warn" if hint else "pass", definition + hint)
    forget()
    score_batch(gold[:1], spec)  # loads its models, which does not count as slow
    start = time.perf_counter()
    results = score_batch(gold + swapped, spec)
    seconds = (time.perf_counter() - start) / len(results)
    yield _ran(reward, "answers", results)
    yield Finding("keys", "pass", ", ".join(result_keys(spec)))
    odd = [sample._replace(solution_str=text) for sample in (gold[0], gold[-1]) for text in _ODD]
    yield _ran(reward, "odd texts", score_batch(odd, spec), [sample.solution_str for sample in odd])
    values = _values(results, reward)
    if len(values) == len(results):  # else the findings above say why
        yield from _ordered(reward, values[: len(gold)], values[len(gold) :])
        yield _steady(reward, spec, gold + swapped)
        yield _speed(reward, seconds)


def _samples(task: str, shift: int) -> list[Rollout]:
    """True answers, or with a shift those of another sample."""
    key = "report" if task == "report" else "boxes"
    pairs = [(text if key == "report" else ", ".join(map(str, text)), {key: text}) for text in _SAMPLES[key]]
    return [
        Rollout(f"check/{task}", pairs[(number + shift) % len(pairs)][0], truth, {"id": f"{task} {number}"})
        for number, (_, truth) in enumerate(pairs)
    ]


def _values(results: Sequence[Result], reward: Reward) -> list[float]:
    return [result[reward.name] for result in results if isinstance(result, dict)]


def _ran(reward: Reward, what: str, results: Sequence[Result], texts: Sequence[str] = ()) -> Finding:
    failures = [(i, result) for i, result in enumerate(results) if isinstance(result, Exception)]
    retries = counts().get(reward.name, Counts()).retries
    forget()
    if failures:
        first, error = failures[0]
        text = f", on {texts[first][:40]!r}" if texts else ""
        return Finding(what, "fail", f"{len(failures)} of {len(results)} failed; the first: {error}{text}")
    if retries:
        return Finding(what, "warn", f"{len(results)} scored, of which {retries} failed at the first try")
    return Finding(what, "pass", f"{len(results)} scored, all finite and in range")


def _ordered(reward: Reward, truth: Sequence[float], wrong: Sequence[float]) -> Iterator[Finding]:
    """Whether true answers earn the best there is, and more than those of other samples."""
    end = reward.range[1] if reward.higher_is_better else reward.range[0]
    worst = max(truth, key=lambda value: abs(value - end))
    if math.isclose(worst, end, abs_tol=1e-6):
        yield Finding("gold against gold", "pass", f"the true answer earns {end:g}, the best there is")
    else:
        yield Finding("gold against gold", "warn", f"a true answer earns {worst:g}, the best of the range is {end:g}")
    better = mean(truth) > mean(wrong) if reward.higher_is_better else mean(truth) < mean(wrong)
    means = f"{mean(truth):.4g} with the right reference, {mean(wrong):.4g} with another's"
    note = "" if better else ": it doesn't tell them apart; is higher_is_better right?"
    yield Finding("shuffled references", "pass" if better else "warn", means + note)


def _steady(reward: Reward, spec: RewardSpec, samples: Sequence[Rollout]) -> Finding:
    """Whether samples get the same values together, again, and alone."""
    what = "alone as in a batch"
    together, again = (score_batch(samples, spec) for _ in range(2))
    alone = [score_batch([sample], spec)[0] for sample in samples]
    runs = [_values(results, reward) for results in (together, again, alone)]
    if {len(run) for run in runs} != {len(samples)}:
        return Finding(what, "fail", "the same samples are sometimes scored, and sometimes fail")
    repeated, batched = (max(abs(a - b) for a, b in zip(runs[0], run, strict=True)) for run in runs[1:])
    if repeated > 1e-9:
        return Finding(what, "warn", f"the same samples scored again differ by up to {repeated:.3g}")
    if batched > 1e-5:
        return Finding(what, "fail", f"values differ by up to {batched:.3g}: they depend on the batch")
    return Finding(what, "pass", "the same values together, again and alone")


def _speed(reward: Reward, seconds: float) -> Finding:
    hint = ""
    if seconds > 0.02 and not waits(reward):
        hint = ": it holds up everything else; make it async, or register it with blocking=True or batched=True"
    elif seconds > 2:
        hint = f": the 4096 rollouts of a step of the paper take one process {seconds * 4096 / 60:.0f} minutes"
    return Finding("speed", "warn" if hint else "pass", f"{seconds * 1000:.3g} ms a sample{hint}")


def report(reward: Reward, findings: Iterator[Finding]) -> bool:
    """Print the findings as they come; return whether none of them failed."""
    low, high = reward.range
    tasks = ", ".join(TASKS) if len(reward.tasks) > 1 else reward.task
    print(f"{reward.name}: {tasks}, {low:g} to {high:g}, {'higher' if reward.higher_is_better else 'lower'} is better")
    sound = True
    for finding in findings:
        sound &= finding.status != "fail"
        print(f"    {finding.status}  {finding.what:20} {finding.detail}".encode(errors="replace").decode(), flush=True)
    return sound
