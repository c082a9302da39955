"""Score what a model wrote: `compute_score` for verl, `score_batch` for everything else."""

import asyncio
import concurrent.futures
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reward_fns.calling import ROWS, begin, failed, outcomes
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
    """The scores of one rollout, as verl's custom reward function.

    A failure of the model earns every reward's floor (the worse end of its range, unless the reward names another) and
    sets `model_failed`: no answer, no "</think>" in thinking mode, an attempt at a box that cannot be read, or, for
    grounding, neither a box nor a statement that there is nothing (see `reward_fns.answers.is_unreadable`). A failure
    of a scorer is raised instead, so that no gradient comes from it.

    Args:
        data_source: `<set>/<task>`.
        solution_str: what the model wrote.
        ground_truth: see `reward_fns.ground_truth.parse_ground_truth`. Further keys are allowed; box format qwen25vl
            needs `frame`, [width, height] in pixels of the image as the model's processor resizes it.
        extra_info: used are `task` (else the end of `data_source`), `id`, `thinking` (true or false), `box_format`
            (default radvlm), and `width` and `height` in pixels for box format pixel.
        spec, preset: the rewards; exactly one, see `reward_fns.spec.resolve`.
        from_verl: `reward_router_address` and `reward_model_tokenizer` reach rewards that take them.

    Returns:
        floats only, with the same keys for every sample of every task of the spec:

        - `score`: weighted sum of the task's rewards.
        - `acc`: the same. In validation, stock verl counts rows whose scoring failed as 0 in this metric; the recipe's
          trainers leave them out of the mean and count them apart.
        - one key per reward; NaN for those of other tasks, and for a reward of weight 0 whose scorer failed.
        - `format_ok`: 1 if there is an answer and, for grounding, a valid box or the statement that there is nothing.
        - `model_failed`: 1 if the model failed, as above.
        - `answer_chars`: length of the answer.
        - `n_boxes`, `n_invalid_boxes`: valid and other boxes of the answer; 0 for reports.

    Raises:
        UsageError: the spec is wrong.
        DataError: the row is wrong; the message names it and every defect.
        ScorerUnavailable: a reward whose weight is not 0 still failed after its retries, or has been given up in this
            process as dead; see `reward_fns.settings.FailureRules`.

    >>> import asyncio
    >>> truth = {"boxes": [[0.38, 0.47, 0.76, 0.62]]}
    >>> answer = "[0.35, 0.51, 0.75, 0.64]"
    >>> result = asyncio.run(compute_score("demo/grounding", answer, truth, preset="paper_grounding"))
    >>> {key: round(value, 3) for key, value in result.items()}  # doctest: +NORMALIZE_WHITESPACE
    {'score': 0.747, 'acc': 0.747, 'box_soft_f1': 0.747, 'format_ok': 1.0, 'model_failed': 0.0, 'answer_chars': 24.0,
     'n_boxes': 1.0, 'n_invalid_boxes': 0.0}
    """
    judge = {key: from_verl.get(key) for key in FROM_VERL}
    sample = Rollout(data_source, solution_str, ground_truth, extra_info or {}, judge)
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
    """Per rollout, in order, what `compute_score` returns or would raise; a batched reward gets many at once.

    Raises UsageError if a reward said that it is used wrongly.
    """
    parsed = [parse_rollout(sample, spec) for sample in samples]
    for sample, row in zip(samples, parsed, strict=True):
        if isinstance(row, DataError):
            refused = ScorerUnavailable(ROWS, str(sample.extra_info.get("id", "")), str(row))
            failed(refused, 0, begin(ROWS, 1)[0], sys.maxsize)
    failures: dict[int, ScorerUnavailable] = {}
    values: list[dict[str, float]] = [dict.fromkeys(spec.reward_names, math.nan) for _ in samples]
    for task, components in spec.tasks.items():
        of_task = [(i, r) for i, r in enumerate(parsed) if isinstance(r, ParsedRollout) and r.task == task]
        for component in components:
            todo = {i: rollout for i, rollout in of_task if not rollout.failed and i not in failures}
            for i, rollout in of_task:
                if rollout.failed:
                    values[i][component.reward.name] = component.reward.floor
            for i, score in zip(todo, await outcomes(component, [*todo.values()], spec), strict=True):
                if not isinstance(score, ScorerUnavailable):
                    values[i][component.reward.name] = score
                elif component.weight:  # else it only watches: NaN in this row, counted and logged
                    failures[i] = score
    return [
        rollout if isinstance(rollout, DataError) else failures.get(i) or _result(rollout, values[i], spec)
        for i, rollout in enumerate(parsed)
    ]


def result_keys(spec: RewardSpec) -> list[str]:
    """Keys of every result under this spec, in order."""
    return ["score", "acc", *spec.reward_names, *DIAGNOSTICS]


def _result(rollout: ParsedRollout, rewards: dict[str, float], spec: RewardSpec) -> dict[str, float]:
    # A reward of weight 0 may be NaN.
    score = math.fsum(part.weight * rewards[part.reward.name] for part in spec.tasks[rollout.task] if part.weight)
    return dict(zip(result_keys(spec), (score, score, *rewards.values(), *rollout.diagnostics), strict=True))
