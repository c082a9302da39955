import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ray")

from recipe.cxr_grpo.running import processes

EXTENSION = Path(__file__).parents[1] / "extension"
WORKER = """
import asyncio, json, os, sys
import ray

ray.init(address="local", num_cpus=1, include_dashboard=False, _temp_dir=sys.argv[1], log_to_driver=False)

@ray.remote
def score(answer):
    import reward_fns
    result = reward_fns.compute_score(
        "set/report", answer, {"report": "The lungs are clear."}, spec={"report": [{"name": "extension_same_length"}]}
    )
    return asyncio.run(result)["extension_same_length"], os.getpid()

found = ray.get([score.remote("The heart is large."), score.remote("Clear.")])
with open(sys.argv[2], "w") as file:
    json.dump({"found": found, "driver": os.getpid(), "loaded": "reward_fns.registry" in sys.modules}, file)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Folder into which pip has installed the extension, without a network."""
    source = shutil.copytree(EXTENSION, tmp_path_factory.mktemp("extension") / "source")
    target = source.parent / "target"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--disable-pip-version-check", "--target", target, source], check=True)
    return target


def test_a_ray_worker_finds_an_installed_reward(installed, tmp_path):
    path = os.pathsep.join(filter(None, [str(installed), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-c", WORKER, "{RAY_TMP}", str(tmp_path / "result.json")]
    status = processes.run(command, log=tmp_path / "log", env={"PYTHONPATH": path})
    assert status == 0, (tmp_path / "log").read_text()
    result = json.loads((tmp_path / "result.json").read_text())
    assert [value for value, _ in result["found"]] == [1.0, 0.0]
    assert result["driver"] not in [pid for _, pid in result["found"]]
    assert not result["loaded"]


def test_it_is_listed_like_a_built_in(installed):
    path = os.pathsep.join(filter(None, [str(installed), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "reward_fns", "list"]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "extension_same_length" in done.stdout
