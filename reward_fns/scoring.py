"""From what a model wrote to its reward: `compute_score` for verl, `score_batch` for everything else."""

from __future__ import annotations

import asyncio
import concurrent.futures
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reward_fns.calling import outcomes
from reward_fns.errors import DataError, ScorerUnavailable
from reward_fns.registry import DIAGNOSTICS, FROM_VERL
from reward_fns.rollout import ParsedRollout, Rollout, parse_rollout
from reward_fns.spec import RewardSpec, resolve

Result = dict[str, float] | DataError | ScorerUnavailable


async def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str | Mapping[str, Any],
    extra_info: Mapping[str, Any] | None = None,
    *,
    spec: str | Path | Mapping[str, Any] | None = None,
    preset: str | None = None,
    **from_verl: Any,
) -> dict[str, float]:
    """Score one rollout, as verl's custom reward function.

    A failure of the model (no answer, no "</think>" in thinking mode, an attempt at a box that cannot be read) earns
    the worse end of every reward's range and sets `model_failed`; it is never mixed up with a failure of a scorer,
    which is raised, so that no gradient comes from it.

    Args:
        data_source: `<set>/<task>`.
        solution_str: what the model wrote.
        ground_truth: JSON or mapping; `{"report": text}`, or `{"boxes": [[x1, y1, x2, y2], ...], "labels": [...]}` in
            shares of the image, labels optional. Further keys are allowed; `frame`, (width, height) of the resized
            image in pixels, is used for box format qwen25vl.
        extra_info: of it are used `task` (else the end of `data_source`), `id`, `thinking`, `box_format` (default
            radvlm), and `width` and `height` in pixels for box formats in pixels.
        spec, preset: the rewards; exactly one, see `reward_fns.spec.resolve`.
        from_verl: `reward_router_address` and `reward_model_tokenizer` reach rewards that take them.

    Returns:
        floats only, with the same keys for every sample of every task of the spec:

        - `score`: weighted sum of the task's rewards.
        - `acc`: the same again. verl leaves rows whose scoring failed out of every validation metric but the one of
          this name, in which they count 0.
        - one key per reward; NaN for those of other tasks. verl averages per data source, and a data source has one
          task, so a NaN never meets a number there (a 0 would look like a bad score).
        - `format_ok`: 1 if there is an answer and, for grounding, a valid box in it or none on purpose.
        - `model_failed`: 1 if the answer is missing or not readable.
        - `answer_chars`: length of the answer in characters.
        - `n_boxes`, `n_invalid_boxes`: valid and other boxes of the answer; 0 for reports.

    Raises:
        UsageError: the spec is wrong.
        DataError: the row is: the message names it.
        ScorerUnavailable: after its retries a reward still raised an exception, took too long or returned what is no
            number in its range; or it has been given up in this process. See `reward_fns.failures.FailureRules`.

    >>> import asyncio
    >>> truth = {"boxes": [[0.38, 0.47, 0.76, 0.62]]}
    >>> answer = "[0.35, 0.51, 0.75, 0.64]"
    >>> result = asyncio.run(compute_score("demo/grounding", answer, truth, preset="paper_grounding"))
    >>> {key: round(value, 3) for key, value in result.items()}  # doctest: +NORMALIZE_WHITESPACE
    {'score': 0.747, 'acc': 0.747, 'box_soft_f1': 0.747, 'format_ok': 1.0, 'model_failed': 0.0, 'answer_chars': 24.0,
     'n_boxes': 1.0, 'n_invalid_boxes': 0.0}
    """
    sample = Rollout(
        data_source, solution_str, ground_truth, extra_info or {}, {key: from_verl.get(key) for key in FROM_VERL}
    )
    (result,) = await score_samples([sample], resolve(spec=spec, preset=preset))
    if isinstance(result, Exception):
        raise result
    return result


def score_batch(samples: Sequence[Rollout], spec: RewardSpec) -> list[Result]:
    """`score_samples` for callers that are not async; also works, and blocks, inside a running event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(score_samples(samples, spec))
    with concurrent.futures.ThreadPoolExecutor(1) as pool:  # a loop of its own, as this thread's is busy with us
        return pool.submit(asyncio.run, score_samples(samples, spec)).result()


async def score_samples(samples: Sequence[Rollout], spec: RewardSpec) -> list[Result]:
    """Score many rollouts, of any tasks; a batched reward is called with many that it applies to at once.

    Args:
        samples: see `compute_score`.
        spec: the rewards.

    Returns:
        per sample, in order, what `compute_score` returns or would raise.

    Raises:
        UsageError: a reward said that it is used wrongly.
    """
    parsed = [parse_rollout(sample, spec) for sample in samples]
    failures: dict[int, DataError | ScorerUnavailable] = {
        i: rollout for i, rollout in enumerate(parsed) if isinstance(rollout, DataError)
    }
    values: list[dict[str, float]] = [dict.fromkeys(spec.reward_names, math.nan) for _ in samples]
    for task, components in spec.tasks.items():
        of_task = [(i, r) for i, r in enumerate(parsed) if isinstance(r, ParsedRollout) and r.task == task]
        for component in components:
            todo = []
            for i, rollout in of_task:
                if rollout.failed:
                    values[i][component.reward.name] = component.reward.floor
                elif i not in failures:
                    todo.append((i, rollout))
            scores = await outcomes(component, [rollout for _, rollout in todo], spec)
            for (i, _), score in zip(todo, scores, strict=True):
                if isinstance(score, ScorerUnavailable):
                    failures[i] = score
                else:
                    values[i][component.reward.name] = score
    return [
        failures[i] if i in failures else _result(rollout, rewards, spec)
        for i, (rollout, rewards) in enumerate(zip(parsed, values, strict=True))
    ]


def result_keys(spec: RewardSpec) -> list[str]:
    """Keys of every result under this spec, in order."""
    return ["score", "acc", *spec.reward_names, *DIAGNOSTICS]


def _result(rollout: Any, rewards: dict[str, float], spec: RewardSpec) -> dict[str, float]:
    score = math.fsum(part.weight * rewards[part.reward.name] for part in spec.tasks[rollout.task])
    return dict(zip(result_keys(spec), (score, score, *rewards.values(), *rollout.diagnostics), strict=True))
