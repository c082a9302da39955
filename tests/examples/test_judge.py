import importlib.util
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from reward_fns.spec import resolve

FOLDER = Path(__file__).parents[2] / "examples" / "judge"


@pytest.fixture
def recorded(tmp_path):
    """Run a script of the example; give how it ended and what it would have called python or vllm with."""

    def run(script, *arguments):
        for name in ("vllm", "python"):
            (tmp_path / name).write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/arguments\n')
            (tmp_path / name).chmod(0o755)
        env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHON": str(tmp_path / "python")}
        done = subprocess.run(
            ["bash", FOLDER / script, *arguments], env=env, capture_output=True, text=True, timeout=120
        )
        called = (tmp_path / "arguments").read_text().splitlines() if (tmp_path / "arguments").exists() else []
        return done, called

    return run


def test_the_overrides_are_keys_of_verl_and_the_spec_resolves(recorded):
    hydra = pytest.importorskip("hydra")
    verl = importlib.util.find_spec("verl")
    if verl is None:
        pytest.skip("verl is not installed")
    _, called = recorded("inside_verl.sh", "/models/judge 7B", "2", "trainer.nnodes=3")
    assert called[:2] == ["-m", "verl.trainer.main_ppo"]
    folder = Path(verl.submodule_search_locations[0]) / "trainer" / "config"  # without importing verl, which takes long
    with hydra.initialize_config_dir(str(folder), version_base=None):
        config = hydra.compose("ppo_trainer", called[2:])  # refuses unknown keys
    judge = config.reward.reward_model
    assert (judge.enable, judge.enable_resource_pool, judge.n_gpus_per_node, judge.nnodes) == (True, True, 2, 1)
    assert (judge.model_path, judge.rollout.name) == ("/models/judge 7B", "vllm")
    assert judge.rollout.free_cache_engine is False and config.trainer.nnodes == 3
    spec = resolve(config.reward.custom_reward_function.reward_kwargs.spec)
    green, gleu = spec.tasks["report"]
    assert dict(green.options) == {"mode": "json", "model": "/models/judge 7B"} and gleu.weight == 0.0


def test_a_server(recorded):
    done, called = recorded("server.sh", "Qwen/Qwen3-8B", "--tensor-parallel-size", "2")
    assert called[:2] == ["serve", "Qwen/Qwen3-8B"] and called[-2:] == ["--tensor-parallel-size", "2"]
    assert "CXR_GRPO_JUDGE_MODEL=Qwen/Qwen3-8B" in done.stdout and ":8000/v1" in done.stdout
    assert recorded("server.sh")[1][1] == "StanfordAIMI/GREEN-radllama2-7b"


@pytest.mark.parametrize("script", ["server.sh", "inside_verl.sh"])
def test_help(recorded, script):
    done, called = recorded(script, "--help")
    assert done.returncode == 0 and done.stdout.startswith("usage: bash examples/judge/") and not called


def test_the_spec_of_the_readme_resolves():
    (text,) = re.findall(r"```yaml\n(.*?)```", (FOLDER / "README.md").read_text(), flags=re.DOTALL)
    assert resolve(yaml.safe_load(text)).failures.concurrency == 32


def test_a_server_without_vllm_says_which_environment_to_activate(tmp_path):
    script = FOLDER / "server.sh"
    done = subprocess.run(["/bin/bash", script], env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 2 and "no command vllm; activate" in done.stderr and not done.stdout
