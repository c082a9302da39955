"""The quickstart for real, on the CPU: minutes, not seconds."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_runs import SMALL, dump, grpo, left_over

pytest.importorskip("verl")

from recipe.cxr_grpo.demo import pretraining
from recipe.cxr_grpo.results.metrics import read_metrics

# One vLLM run at a time on a machine: verl 0.9.1 would mix up the weights of two.
pytestmark = [pytest.mark.e2e, pytest.mark.vllm]
REAL = Path(os.environ.get("CXR_GRPO_REAL_DATA", Path(__file__).parents[2].parent / "shared" / "data" / "real"))


def start(out, *arguments):
    command = [sys.executable, "-m", "recipe.cxr_grpo.quickstart", "--out", str(out), "--patients", "30"]
    command += ["--steps", "3", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A quickstart that is interrupted in GRPO, then run again to its end without its last checkpoint, which is damaged
    meanwhile; returns its folder and both outputs."""
    out = tmp_path_factory.mktemp("run") / "quickstart"
    first = start(out, *SMALL, "trainer.save_freq=1")
    deadline = time.time() + 400
    # A step's rollouts are written first, then its checkpoint, then its metrics: wait for the last of them.
    while 2 not in read_metrics(out, "grpo"):
        assert first.poll() is None and time.time() < deadline, first.stdout.read()
        time.sleep(0.2)
    first.send_signal(signal.SIGINT)
    interrupted = first.communicate(timeout=60)[0]
    left = left_over()
    newest = max((out / "checkpoints").glob("global_step_*"), key=lambda path: int(path.name.split("_")[-1]))
    os.truncate(newest / "actor" / "model_world_size_1_rank_0.pt", 1000)
    second = start(out, *SMALL, "trainer.save_freq=1")
    resumed = second.communicate(timeout=400)[0]
    return out, first.returncode, interrupted, left, second.returncode, resumed


def test_an_interrupted_run_says_so_and_leaves_no_process(finished):
    _, status, output, left, *_ = finished
    assert status == 130, output
    assert "interrupted" in output
    assert left == []


def test_the_same_command_resumes_and_completes(finished):
    out, *_, status, output = finished
    assert status == 0, output
    assert "[data] already done" in output
    assert left_over() == []
    assert (out / "checkpoints" / "latest_checkpointed_iteration.txt").read_text() == "3"
    assert "global_step_" in (out / "grpo.log").read_text(errors="replace")


def test_a_damaged_checkpoint_is_moved_aside_and_an_older_one_resumed_from(finished):
    out, *_, output = finished
    (damaged,) = (out / "checkpoints").glob("*.damaged")
    assert f"{damaged.with_suffix('')} is not used: actor/model_world_size_1_rank_0.pt " in output


def test_what_holds_text_of_reports_is_for_the_user_only(finished):
    out = finished[0]
    for path in (out / "grpo.log", *(out / "validation").iterdir(), *(out / "rollouts").iterdir()):
        assert path.stat().st_mode & 0o077 == 0, path


def test_the_summary_has_both_tasks_and_every_phase(finished):
    out = finished[0]
    summary = json.loads((out / "summary.json").read_text())
    for when in ("before", "after", "difference"):
        assert set(summary[when]) == {"grounding", "report"}
        for value in summary[when].values():
            assert value["n"] > 0
            assert value["ci95"][0] <= value["mean"] <= value["ci95"][1]
    assert set(summary["seconds"]) == {"data", "grpo"}
    assert summary["versions"]["verl"] == "0.9.1"
    for task in ("grounding", "report"):
        change = summary["after"][task]["mean"] - summary["before"][task]["mean"]
        assert summary["difference"][task]["mean"] == pytest.approx(change)


def test_the_demo_model_looks_at_the_film_before_any_training(finished):
    films = json.loads((finished[0] / "summary.json").read_text())["films"]
    for task in ("grounding", "report"):
        before = films["before"][task]
        assert before["difference"]["mean"] == pytest.approx(before["own"] - before["swapped"])
        # A report in other words than the reference's earns little before GRPO, whether its findings are right or not.
        assert before["difference"]["mean"] > (0.1 if task == "grounding" else 0.04)
        change = films["after"][task]["difference"]["mean"] - before["difference"]["mean"]
        assert films["change"][task]["mean"] == pytest.approx(change)


def test_no_rollout_was_lost(finished):
    out = finished[0]
    for step in (1, 2, 3):
        rows = dump(out, step)
        assert len(rows) == 16
        assert all(row["input"] and row["gts"] and row["output"] is not None for row in rows)
        assert sum(bool(row["output"].strip()) for row in rows) >= 12  # a model so little trained may say nothing


def test_the_trained_model_loads_and_differs_from_where_it_started(finished):
    from safetensors.torch import load_file

    out = finished[0]
    before = load_file(pretraining.MODEL / "model.safetensors")
    after = load_file(out / "checkpoints" / "global_step_3" / "actor" / "huggingface" / "model.safetensors")
    assert before.keys() == after.keys()
    assert any(not before[name].equal(after[name]) for name in before)


def test_gradients_flowed_and_the_page_is_there(finished):
    out = finished[0]
    page = (out / "report.html").read_text()
    assert page.count("<figure") > 3
    # verl logs a step after its checkpoint, so the first attempt may have been interrupted between the two; and after
    # so short an SFT all rollouts of one step may earn the same.
    steps = read_metrics(out, "grpo")
    norms = [steps[number]["actor/grad_norm"] for number in (2, 3)]
    assert all(math.isfinite(norm) for norm in norms)
    assert max(norms) > 0


@pytest.mark.skipif(not (REAL / "tbx11k").is_dir(), reason="the real films are not here")
def test_real_films_through_the_same_recipe(tmp_path):
    films = REAL / "tbx11k"
    command = [sys.executable, "-m", "data_prep", "coco", "--root", films, "--out", tmp_path / "data", "--strict"]
    command += ["--annotations", films / "TBX11K_train.json", "--split", "train", "--max-pixels", "16384"]
    subprocess.run([*map(str, command)], check=True)
    train = tmp_path / "data" / "train.parquet"
    rows = grpo(tmp_path, pretraining.MODEL, train, train, 2, "data.train_batch_size=2",
                "actor_rollout_ref.actor.ppo_mini_batch_size=2", "actor_rollout_ref.rollout.n=8")  # fmt: skip
    assert len(rows) == 16
    assert {json.loads(row["gts"])["task"] for row in rows} == {"grounding"}


def test_every_component_is_in_the_logs_and_in_the_dump_of_each_step(finished):
    out = finished[0]
    logged = read_metrics(out, "grpo")
    for step in (2, 3):
        rows = dump(out, step)
        assert logged[step]["reward/failed_rollouts"] == 0
        for task, name in (("report", "gleu"), ("grounding", "box_soft_f1"), ("grounding", "box_f1@0.5")):
            values = [row[name] for row in rows if row["task"] == task]
            assert all(row[name] is None for row in rows if row["task"] != task)
            if values:
                assert logged[step][f"reward/{task}/{name}/mean"] == pytest.approx(sum(values) / len(values))
                assert logged[step][f"reward/{task}/answer_chars/mean"] > 0
    assert "reward/failed_groups:0" in (out / "grpo.log").read_text(errors="replace")  # the console's line


def test_every_rollout_of_a_validation_is_counted_and_every_metric_of_it_is_finite(finished):
    out = finished[0]
    logged = read_metrics(out, "grpo")
    for step in (0, 3):
        rows = [json.loads(line) for line in (out / "validation" / f"{step}.jsonl").open()]
        assert logged[step]["reward/validation/rollouts"] == len(rows) > 0  # those on swapped films included
        assert logged[step]["reward/validation/failed_rollouts"] == 0
        assert logged[step]["reward/validation/scorers/gleu/failures"] == 0
        for task, name, other in (("report", "gleu", "box_soft_f1"), ("grounding", "box_soft_f1", "gleu")):
            truths = [json.loads(row["gts"]) for row in rows]
            for source, films in (("demo", None), ("demo/films_swapped", "swapped")):
                values = [row[name] for row, truth in zip(rows, truths, strict=True)
                          if (truth["task"], truth.get("films")) == (task, films)]  # fmt: skip
                mean = logged[step][f"val-aux/{source}/{task}/{name}/mean@1"]
                assert mean == pytest.approx(sum(values) / len(values))
                assert not [key for key in logged[step] if key.startswith(f"val-aux/{source}/{task}/{other}/")]
        assert all(math.isfinite(value) for value in logged[step].values())


def test_the_custom_reward_example_trains_on_the_quickstart(finished, tmp_path):
    script = Path(__file__).parents[2] / "examples" / "custom_reward" / "run.sh"
    env = os.environ | {"QUICKSTART": str(finished[0]), "OUT": str(tmp_path), "VENV": str(Path(sys.prefix))}
    command = ["bash", str(script), *SMALL, "trainer.total_training_steps=2", "trainer.val_before_train=false",
               "trainer.test_freq=-1", "trainer.save_freq=-1", "actor_rollout_ref.rollout.name=hf"]  # fmt: skip
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "report/sides" in done.stdout
    rows = dump(tmp_path, 1) + dump(tmp_path, 2)
    assert any(row["sides"] is not None for row in rows)
    for row in rows:
        if row["task"] == "report":
            assert row["score"] == pytest.approx(row["gleu"] + 0.5 * row["sides"])
