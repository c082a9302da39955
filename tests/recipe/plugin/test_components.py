import math

import pytest

from recipe.cxr_grpo.plugin.components import ScoredRollout, statistics
from reward_fns.spec import resolve

SPEC = {"report": [{"name": "gleu"}], "grounding": [{"name": "box_iou"}, {"name": "box_f1@0.5", "weight": 0}]}


def rollout(group, session, task, score, **values):
    others = {"gleu": math.nan, "box_iou": math.nan, "box_f1@0.5": math.nan, "answer_chars": 10.0, "model_failed": 0.0}
    mine = {"gleu": score} if task == "report" else {"box_iou": score, "box_f1@0.5": 0.0}
    return ScoredRollout(f"{group}_{session}_0", group, task, "p1", others | {"score": score} | mine | values)


@pytest.fixture
def step():
    """Two groups of four for each task, of which one report group has lost two and one grounding group all four."""
    reports = [rollout("a", i, "report", value) for i, value in enumerate((0.0, 0.5, 0.5, 1.0))]
    reports += [rollout("b", i, "report", 0.25, answer_chars=20.0, model_failed=1.0) for i in (0, 3)]
    boxes = [rollout("c", i, "grounding", value) for i, value in enumerate((0.0, 0.0, 0.0, 1.0))]
    return statistics([*reports, *boxes], resolve(SPEC), 4, 4)


def test_mean_and_spread_of_a_component_are_over_its_own_task(step):
    assert step["reward/report/gleu/mean"] == pytest.approx(2.5 / 6)
    assert step["reward/report/gleu/std"] == pytest.approx(0.3118, abs=1e-4)
    assert step["reward/grounding/box_iou/mean"] == 0.25
    assert "reward/grounding/gleu/mean" not in step
    assert all(math.isfinite(value) for value in step.values())


def test_spread_within_groups_and_groups_without_any(step):
    assert step["reward/report/gleu/group_std"] == pytest.approx((math.sqrt(0.125) + 0) / 2)
    assert step["reward/report/score/zero_spread_rate"] == 0.5
    assert step["reward/grounding/box_iou/zero_spread_rate"] == 0.0
    assert step["reward/grounding/box_f1@0.5/zero_spread_rate"] == 1.0


def test_floors_flags_and_lengths(step):
    assert step["reward/report/gleu/floor_rate"] == pytest.approx(1 / 6)
    assert step["reward/grounding/box_iou/floor_rate"] == 0.75
    assert step["reward/report/model_failed/mean"] == pytest.approx(1 / 3)
    assert step["reward/report/answer_chars/mean"] == pytest.approx(40 / 3)


def test_what_failed_is_counted(step):
    assert (step["reward/failed_rollouts"], step["reward/failed_groups"]) == (6, 2)
    assert step["reward/failed_share"] == 6 / 16
    assert (step["reward/report/rollouts"], step["reward/grounding/rollouts"]) == (6, 4)


def test_a_task_that_a_step_lacks_leaves_a_gap_and_a_lone_rollout_no_spread():
    found = statistics([rollout("a", 0, "report", 0.5)], resolve(SPEC), 1, 4)
    assert not [key for key in found if key.startswith("reward/grounding")]
    assert found["reward/report/gleu/mean"] == 0.5
    assert "reward/report/gleu/zero_spread_rate" not in found
    nothing = {"reward/failed_rollouts": 8, "reward/failed_groups": 2, "reward/failed_share": 1.0}
    assert statistics([], resolve(SPEC), 2, 4) == nothing


def test_a_rollout_that_a_watching_reward_failed_on_is_left_out_of_that_reward_only():
    spec = resolve({"report": [{"name": "gleu"}, {"name": "rouge_l", "weight": 0}]})
    watched = [rollout("a", i, "report", 0.5, rouge_l=value) for i, value in enumerate((0.2, math.nan, 0.4))]
    found = statistics(watched, spec, 1, 3)
    assert found["reward/report/rouge_l/mean"] == pytest.approx(0.3)
    assert found["reward/report/rouge_l/group_std"] == pytest.approx(0.1)
    assert found["reward/report/gleu/mean"] == 0.5 and found["reward/report/rollouts"] == 3
