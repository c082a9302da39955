"""Rollouts by transformers, and rewards that fail in every way: real GRPO on the CPU, minutes."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_runs import dump, grpo, left_over

pytest.importorskip("verl")

from data_prep.cli import main as data_prep
from recipe.cxr_grpo.demo import pretraining
from recipe.cxr_grpo.results.metrics import read_metrics
from recipe.cxr_grpo.running.training import RunFailed
from reward_fns.scoring import Rollout, score_batch
from reward_fns.spec import of_rewards

pytestmark = pytest.mark.e2e
BOXES = of_rewards(["box_soft_f1"])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with demo data."""
    folder = tmp_path_factory.mktemp("data")
    assert data_prep(["demo", "--out", str(folder), "--patients", "30", "--max-pixels", "16384"]) == 0
    return folder


# A scorer whose right answer can be told from the text, and that fails as the step says that it is in.
FRAGILE = """
import itertools
import math
import threading
import time

from reward_fns import reward

calls, rest, lock, hanging = itertools.count(), itertools.count(), threading.Lock(), []


@reward("fragile", task="report", range=(0.0, 1.0), blocking=True)
def fragile(prediction: str, reference: str, extra_info: dict, dead: bool = False) -> float:
    call = next(calls)  # the first is the trial before the first step
    step = extra_info["global_steps"] + 1  # verl counts the versions of the weights
    if (dead and call) or step == 2 or call == 1:  # away in the second step, and once for a moment
        raise ConnectionError("the scorer is away")
    if step == 3:
        with lock:
            hanging.append(extra_info["id"])
        if extra_info["id"] == hanging[0]:
            time.sleep(600)
    if step == 3 and next(rest) > 0:  # leaves one of the other group
        return math.nan
    return len(prediction) % 7 / 7
"""


@pytest.fixture
def fragile(data, tmp_path):
    """Run GRPO with the fragile scorer on batches of two reports and two groundings each."""
    reward = data / "fragile.py"  # one place for all tests: a process knows one reward of a name
    reward.write_text(FRAGILE)
    rows = pq.read_table(data / "train.parquet").to_pylist()
    tasks = [[row for row in rows if row["extra_info"]["task"] == task] for task in ("report", "grounding")]
    mixed = [row for pair in zip(*tasks, strict=False) for row in pair]
    schema = pq.read_schema(data / "train.parquet")
    pq.write_table(pa.Table.from_pylist(mixed, schema=schema), tmp_path / "train.parquet")

    def run(steps, rules, **options):
        spec = {
            "report": [{"name": "fragile", "path": str(reward), "options": options}],
            "grounding": [
                {"name": "box_soft_f1", "weight": 0.0}
            ],  # logged only: what is learned comes from the reports
            "failures": rules | {"backoff": 0.1, "timeout": 2.0},
        }
        (tmp_path / "spec.yaml").write_text(json.dumps(spec))
        kwargs = "reward.custom_reward_function.reward_kwargs."
        model, train = pretraining.MODEL, tmp_path / "train.parquet"
        grpo(tmp_path, model, train, train, steps, "data.shuffle=false", "actor_rollout_ref.rollout.name=hf",
             f"{kwargs}preset=null", f"{kwargs}spec={tmp_path / 'spec.yaml'}",
             "actor_rollout_ref.actor.use_kl_loss=false")  # the only gradient is that of the reward  # fmt: skip
        return tmp_path

    return run


def test_a_scorer_that_dies_and_returns_that_hangs_and_that_says_nan_is_never_trained_on(fragile):
    out = fragile(4, {"retries": 1, "stop_after": 30, "max_rate": 1.0})
    logged = read_metrics(out, "grpo")
    counted = {
        step: [
            logged[step][f"reward/{key}"] for key in ("failed_rollouts", "failed_groups", "scorers/fragile/failures")
        ]
        for step in logged
    }
    assert counted[1] == counted[4] == [0, 0, 0]
    assert logged[1]["reward/scorers/fragile/retries"] == 1
    assert counted[2] == [8, 2, 8]
    assert counted[3] == [7, 2, 7]
    # No report in the second step and one in the third, which has nothing to be compared with.
    assert [logged[step]["critic/advantages/max"] for step in (2, 3)] == [0.0, 0.0]
    assert [logged[step]["actor/grad_norm"] for step in (2, 3)] == [0.0, 0.0]
    assert logged[1]["actor/grad_norm"] > 0
    for step in logged:
        # Log-probabilities of the sampled tokens agree between the rollout's model and the trainer's.
        assert abs(logged[step]["actor/ppo_kl"]) < 0.01
        rows = dump(out, step)
        assert len(rows) == 16 - counted[step][0]
        assert not any(row["uid"].startswith("pad") for row in rows)
        for row in rows:
            if row["task"] == "report":
                assert row["fragile"] == pytest.approx(len(row["output"].strip()) % 7 / 7)
                assert row["score"] == pytest.approx(row["fragile"])
            else:
                (result,) = score_batch([Rollout("", row["output"], row["gts"], {"task": "grounding"})], BOXES)
                assert (row["box_soft_f1"], row["score"]) == (pytest.approx(result["box_soft_f1"]), 0.0)


def test_a_dead_scorer_ends_the_run_by_its_name(fragile):
    with pytest.raises(RunFailed) as failure:
        fragile(4, {"retries": 0, "stop_after": 6}, dead=True)
    message = str(failure.value).splitlines()[-1]
    assert "'fragile'" in message
    assert "given up after 6 failures in a row" in message
    assert "the scorer is away" in message
    assert left_over() == []


def test_a_scorer_that_fails_too_often_ends_the_run_within_the_window(fragile):
    with pytest.raises(
        RunFailed, match=r"'fragile' failed on 8 of 16 rollouts in the last 2 steps .*the scorer is away"
    ):
        fragile(4, {"retries": 1, "stop_after": 30, "window": 2})
    assert left_over() == []
