"""The command as a whole: its table, its exit status, and what it says about runs that would fail."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("verl")

from data_prep.cli import main as data_prep
from recipe.cxr_grpo import preflight
from recipe.cxr_grpo.demo import architecture
from recipe.cxr_grpo.demo.pretraining import MODEL
from recipe.cxr_grpo.readiness import machine

NODE = machine.Machine([80.0] * 8, "550.54.15", 8, 0.1)
PRESET = "reward.custom_reward_function.reward_kwargs.preset"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Demo films."""
    root = tmp_path_factory.mktemp("demo")
    side = str(architecture.IMAGE_SIDE**2)
    drawn = ["demo", "--out", str(root), "--patients", "16", "--shares", "0.8,0.2,0", "--max-pixels", side]
    assert data_prep(drawn) == 0
    return root


def words(kind, data, *overrides):
    prefix, key = ("", "actor_rollout_ref.model") if kind == "grpo" else ("sft_", "model")
    files = [f"data.{name}_files={data / f'{prefix}{name}.parquet'}" for name in ("train", "val")]
    return [kind, "--config-name", kind, "profile=cpu", *files, f"{key}.path={MODEL}", *overrides]


@pytest.fixture
def look(capsys, monkeypatch, tmp_path):
    """Run the command in this process; returns its exit status and the words of each row of its table, by name."""

    def run(*arguments):
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        monkeypatch.setenv("COLUMNS", "1000")
        status = preflight.main([*arguments, f"--out={tmp_path / 'run'}"])
        lines = capsys.readouterr().out.splitlines()
        rows = {
            found[2].strip(): (found[1], found[3])
            for line in lines
            if (found := re.match(r"(\w{4})  (.{29})(.*)", line))
        }
        return status, rows

    return run


def test_a_run_that_is_ready_exits_0(data, tmp_path):
    command = [
        sys.executable,
        "-m",
        "recipe.cxr_grpo.preflight",
        *words("grpo", data, "task=mixed", f"{PRESET}=quickstart"),
    ]
    done = subprocess.run([*command, "--out", str(tmp_path / "run")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^pass  gleu +1.000 for a true report", done.stdout, re.MULTILINE)
    assert re.search(r"^pass  box_soft_f1 +0.9\d+ for a true grounding", done.stdout, re.MULTILINE)
    assert done.stdout.splitlines()[-1].endswith("0 warn, 0 fail, 0 skip")
    assert not (tmp_path / "run").exists()


def test_missing_data_exits_1_with_the_remedy_and_the_rest_is_looked_at(data, look):
    missing = f"data.train_files={data}/none.parquet"
    status, rows = look(*words("grpo", data, "task=mixed", f"{PRESET}=quickstart", missing))
    assert status == 1
    assert rows["data.train_files"] == (
        "fail",
        f"data.train_files: no file {data}/none.parquet; data.train_files=FILE names one that data_prep made.",
    )
    assert {rows[name][0] for name in ("weights", "memory of a node", "disk", "gleu")} == {"pass"}


def test_sft_has_no_rollouts_to_look_at(data, look):
    status, rows = look(*words("sft", data))
    assert status == 0 and {"weights", "disk", "rows and films"} <= rows.keys()
    assert not {"CPUs", "memory of a node", "reward spec"} & rows.keys()


@pytest.mark.parametrize(
    ("override", "row", "message"),
    [
        ("data.train_batch_size=3", "config", "3 is not a multiple of ppo_mini_batch_size"),
        (f"{PRESET}=paper_grounding", "reward spec", "rows of task 'report', for which the reward spec has no rewards"),
        ("ray_kwargs.ray_init.num_cpus=5", "CPUs", "5, needs 6 a node"),
        ("actor_rollout_ref.model.path=/nowhere", "actor_rollout_ref.model.path", "no config.json in /nowhere"),
        ("actor_rollout_ref.model.path=Qwen/Qwen3-VL-0B", "model", "`hf download Qwen/Qwen3-VL-0B`, or --download"),
        ("trainer.device=cuda", "platform", "VERL_PLATFORM=cpu is set"),
    ],
)
def test_what_launch_would_refuse_is_a_row(data, look, override, row, message):
    status, rows = look(*words("grpo", data, "task=mixed", f"{PRESET}=quickstart", override))
    assert status == 1 and rows[row][0] == "fail" and message in rows[row][1]


def test_a_login_node_stands_for_the_gpus_of_the_profile(data, look, monkeypatch):
    monkeypatch.delenv("VERL_PLATFORM")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr(machine.subprocess, "run", lambda *_, **__: (_ for _ in ()).throw(FileNotFoundError))
    _, rows = look(*words("grpo", data, "profile=paper_32xgh200", "task=mixed", f"{PRESET}=quickstart"))
    assert rows["driver"][0] == rows["CPUs"][0] == rows["memory of a node"][0] == "skip"
    assert rows["GPU memory in updates"][1].startswith("96.0 GiB, needs")
    assert {rows[name][0] for name in ("GPU memory in updates", "GPU memory in rollouts", "glibc")} == {"pass"}


def test_advice_is_for_checks_that_there_are(data, look, monkeypatch):
    monkeypatch.delenv("VERL_PLATFORM")
    monkeypatch.setattr(machine, "this_machine", lambda on_host: NODE)
    _, rows = look(*words("grpo", data, "profile=node_8x80g", "task=mixed", f"{PRESET}=quickstart"))
    assert preflight.ADVICE.keys() <= rows.keys()
    for name, advice in preflight.ADVICE.items():
        assert (rows[name][0] in ("warn", "fail")) == rows[name][1].endswith(f" -> {advice}"), name
    assert [rows[name][0] for name in ("driver", "CPUs", "memory of a node", "GPU memory in updates")] == [
        "fail",
        "fail",
        "fail",
        "pass",
    ]


def test_wrong_use_exits_2(data, look, capsys):
    assert preflight.main(words("grpo", data, "trainer.total_step=3")) == 2
    assert "trainer.total_step" in capsys.readouterr().err
    with pytest.raises(SystemExit) as refused:
        preflight.main(["dpo"])
    assert refused.value.code == 2


def test_it_takes_launch_s_words(data, look):
    status, rows = look(*words("sft", data), "--restarts", "3", "--startup-limit", "60")
    assert status == 0 and "model at the end" in rows["disk"][1]
    status, rows = look(*words("sft", data), "--no-merge")
    assert status == 0 and "model at the end" not in rows["disk"][1]


def test_the_arithmetic_needs_neither_weights_nor_data(data, look, tmp_path):
    (tmp_path / "config.json").write_text((Path(MODEL) / "config.json").read_text())
    missing = f"data.train_files={data}/none.parquet", f"data.val_files={data}/none.parquet"
    status, rows = look(*words("grpo", data, f"actor_rollout_ref.model.path={tmp_path}", *missing))
    assert status == 1 and rows["weights"][0] == "fail"
    assert rows["parameters"][0] == "pass" and "0.16 films (16 rollouts" in rows["memory of a node"][1]


def test_the_disk_is_that_of_the_checkpoints(data, look, monkeypatch):
    asked = []
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: asked.append(path) or SimpleNamespace(free=1e15))
    look(*words("sft", data), f"trainer.default_local_dir={data}/elsewhere")
    assert data in asked


def test_a_recipe_of_the_paper_is_looked_at_before_it_is_queued(data, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "grounding").symlink_to(data)
    env = {"DATA": tmp_path / "data", "RUNS": tmp_path / "runs", "VENV": sys.prefix, "PROFILE": "cpu", "START": MODEL}
    script = Path(__file__).parents[2] / "examples" / "paper" / "run.sh"
    command = ["bash", script, "radvlm_grounding", "--preflight", "task=mixed", f"{PRESET}=quickstart"]
    given = os.environ | {key: str(value) for key, value in env.items()}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=given)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pass  box_soft_f1" in done.stdout and not (tmp_path / "runs").exists()
