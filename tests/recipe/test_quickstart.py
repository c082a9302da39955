import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

pytest.importorskip("verl")

from recipe.cxr_grpo import films, launch, quickstart, tiny_model
from reward_fns.errors import UsageError


def test_overrides_pass_through_and_options_do_not():
    args, overrides = quickstart.parse(
        ["--steps", "5", "--restarts", "3", "actor_rollout_ref.actor.optim.lr=1e-5", "+a.b=2"]
    )
    assert (args.steps, args.restarts) == (5, 3)
    assert overrides == ["actor_rollout_ref.actor.optim.lr=1e-5", "+a.b=2"]


@pytest.mark.parametrize(
    "arguments",
    [["--stpes", "5"], ["--steps", "0"], ["--sft-steps", "9"], ["--seed", "1000000000"], ["fast"], ["--steps", "many"]],
)
def test_wrong_use_has_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        quickstart.main(arguments)
    assert stop.value.code == 2
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (quickstart, []),
        (launch, ["grpo"]),
        (tiny_model, []),
        (films, ["write", "val.parquet"]),
    ],
)
def test_an_empty_name_is_not_the_current_folder(command, arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        command.main([*arguments, "--out", ""])
    assert stop.value.code == 2 and "must name a folder" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_another_run_is_refused_and_kept(tmp_path):
    (tmp_path / "state.json").write_text(json.dumps({"settings": {"seed": 1}, "seconds": {}, "done": []}))
    with pytest.raises(UsageError, match="Choose another folder with --out"):
        quickstart.Run(tmp_path, {"seed": 2})
    assert json.loads((tmp_path / "state.json").read_text())["settings"] == {"seed": 1}


def test_phases_run_once_and_their_seconds_add_up(tmp_path):
    run = quickstart.Run(tmp_path, {"seed": 0})
    with pytest.raises(RuntimeError), run.phase("data", "…") as todo:
        assert todo
        raise RuntimeError
    with quickstart.Run(tmp_path, {"seed": 0}).phase("data", "…") as todo:
        assert todo
    again = quickstart.Run(tmp_path, {"seed": 0})
    with again.phase("data", "…") as todo:
        assert not todo
    assert again.state["done"] == ["data"]
    assert again.state["seconds"]["data"] >= 0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("reward.custom_reward_function.reward_kwargs.preset=quickstrat", "quickstart"),
        ("actor_rollout_ref.model.path=/nowhere/model", "no config.json in /nowhere/model"),
        ("data.val_files=/nowhere/val.parquet", "no file /nowhere/val.parquet"),
        ("trainer.total_step=3", "total_step"),
    ],
)
def test_a_mistake_in_an_override_is_refused_before_anything_runs(tmp_path, override, message):
    command = [sys.executable, "-m", "recipe.cxr_grpo.quickstart", "--out", str(tmp_path / "run"), override]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_the_decoding_is_told_in_words():
    assert quickstart.decoding(SimpleNamespace(do_sample=True, temperature=0.7)) == "sampled at temperature 0.7"
    assert quickstart.decoding(SimpleNamespace(do_sample=False, temperature=0.7)) == "greedy"
