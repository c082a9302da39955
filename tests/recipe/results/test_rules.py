import re
from pathlib import Path

import pytest

from recipe.cxr_grpo.results import rules
from recipe.cxr_grpo.results.metrics import read_metrics
from reward_fns.settings import FailureRules

LAST = 50


def recorded():
    """The first 50 steps of a real run on the demo films, rounded, with the metrics that rules and status read."""
    return read_metrics(Path(__file__).parent / "recorded", "grpo")


def changed(pattern, change, first=LAST - 9):
    """The recorded run with other values of some metrics from a step on: ``change`` of step and value."""
    steps = recorded()
    found = 0
    for step, logged in steps.items():
        for name in filter(re.compile(pattern).fullmatch, logged if step >= first else ()):
            logged[name] = change(step, logged[name])
            found += 1
    assert found, f"nothing is called {pattern}"
    return steps


def names(steps, **limits):
    return sorted({warning["rule"] for warning in rules.check(steps, limits)})


def test_a_real_run_gives_no_warning():
    assert names(recorded()) == []


CHARS, OWN = "reward/report/answer_chars/mean", "val-aux/demo/report/score/mean@1"
DERIVED = {
    "length_collapse": (CHARS, lambda step, value: 0.3 * value),
    "length_collapse, step by step": (CHARS, lambda step, value: value * 0.85 ** (step - 35), 35),
    "length_collapse, long ago": (CHARS, lambda step, value: 0.3 * value, 15),
    "length_collapse, over the whole run": (CHARS, lambda step, value: 207 - 114 * step / LAST, 1),
    "length_collapse, in the first steps": (CHARS, lambda step, value: 400 if step == 1 else value, 1),
    "length_collapse, of tokens": ("response_length/mean", lambda step, value: 0.3 * value),
    "rising_floor_rate": ("reward/grounding/box_soft_f1/floor_rate", lambda step, value: value + 0.4),
    "zero_spread": ("reward/report/score/zero_spread_rate", lambda step, value: 0.6),
    "scorer_failures": ("reward/failed_share", lambda step, value: 0.2),
    "scorer_failures, in validation": ("reward/validation/failed_rollouts", lambda step, value: 300),
    "kl_runaway": ("actor/kl_loss", lambda step, value: 5 * value),
    "kl_runaway, within a step": ("actor/ppo_kl", lambda step, value: 0.3),
    "validation_falls_while_training_rises": (OWN, lambda step, value: 0.25),
}


@pytest.mark.parametrize("case", DERIVED)
def test_a_curve_that_goes_wrong_gives_exactly_its_warning(case):
    pattern, change, *first = DERIVED[case]
    assert names(changed(pattern, change, *first)) == [case.partition(",")[0]]


@pytest.mark.parametrize(
    ("pattern", "change", "first"),
    [
        (CHARS, lambda step, value: 207 - 90 * step / LAST, 1),  # shorter and shorter, but more than half as long
        (CHARS, lambda step, value: value * (0.3 if step < 35 else 1), 25),  # and long again
        ("reward/.*/floor_rate", lambda step, value: min(1, value + 0.4), 1),  # high from the beginning
        ("actor/kl_loss", lambda step, value: 50.0, LAST),  # one step
        ("actor/ppo_kl", lambda step, value: -0.01, 1),
        ("reward/failed_share", lambda step, value: 1.0 if step == 40 else 0.0, 1),  # over
        ("val-aux/demo/films_swapped/report/score/mean@1", lambda step, value: 0.0, LAST),  # these are no patients' own
        (f"{OWN}|reward/report/score/mean", lambda step, value: 0.2, 30),  # training falls too
        (OWN, lambda step, value: 0.3, LAST),  # no more than noise below the first, 0.312
    ],
)
def test_what_is_harmless_gives_no_warning(pattern, change, first):
    assert names(changed(pattern, change, first)) == []


def test_a_run_of_a_few_steps_gives_no_warning_of_curves():
    bad = changed("actor/kl_loss", lambda step, value: 50.0, 1)
    assert names({step: bad[step] for step in range(1, 5)}) == []
    assert names({step: bad[step] for step in range(1, 6)}) == ["kl_runaway"]
    assert names({}) == []


def test_the_limits_of_failures_are_those_of_the_reward_spec_or_the_user():
    some = changed("reward/failed_share", lambda step, value: 0.06)
    assert names(some) == []
    assert names(some, max_rate=0.05) == ["scorer_failures"]
    late = changed("reward/failed_share", lambda step, value: 0.2, LAST)
    assert names(late) == []  # over three steps, it is less than 0.1
    assert names(late, window=1) == ["scorer_failures"]


def test_the_default_limits_of_failures_are_those_of_reward_specs():
    limits = rules.RULES["scorer_failures"]["limits"]
    assert limits == {name: getattr(FailureRules(), name) for name in limits}


def test_a_warning_says_what_was_seen_and_what_to_do():
    (warning,) = rules.check(changed(CHARS, lambda step, value: 0.3 * value), {})
    assert re.fullmatch(rf"{CHARS} fell from \d+ in step \d+ to \d+ in step {LAST}", warning["saw"])
    assert "rollouts/" in warning["advice"]
    (warning,) = rules.check(changed("reward/failed_share", lambda step, value: 0.2), {})
    assert warning["saw"] == "20.0% of the rollouts of the last 3 steps have no reward, over 10.0%"
    (warning,) = rules.check(changed(OWN, lambda step, value: 0.25), {})
    assert warning["saw"].startswith(
        "the validation of report fell from 0.312 in step 0 to 0.250 in step 50, in training"
    )
