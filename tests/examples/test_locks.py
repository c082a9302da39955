"""examples/locks: they hold the pins of setup.cfg, and wheels of all that they name exist."""

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = sorted((ROOT / "examples" / "locks").glob("gpu-py312-*.txt"))


def pins(text):
    """Versions by package, of lines such as ray[serve]==2.60.0."""
    return dict(re.findall(r"^([\w.-]+)(?:\[.*\])?==([^\s;]+)", text.lower(), flags=re.MULTILINE))


def test_the_locks_hold_the_pins_of_the_gpu_extra():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    wanted = pins(config["options.extras_require"]["gpu"])
    assert wanted["verl"] == "0.9.1" and "vllm" in wanted
    assert [path.stem.rpartition("-")[2] for path in LOCKS] == ["aarch64", "x86_64"]
    for path in LOCKS:
        locked = pins(path.read_text())
        assert wanted.items() <= locked.items()
        assert "flash-attn" not in locked  # no index has wheels of it


@pytest.mark.e2e
def test_the_package_index_has_wheels_of_all():
    uv = shutil.which("uv", path=f"{sys.prefix}/bin") or shutil.which("uv")
    if not uv:
        pytest.skip("no uv: bash tests/run.sh installs it")
    command = ["bash", str(ROOT / "examples" / "lock.sh"), "--check"]
    done = subprocess.run(command, env={"PATH": "/usr/bin:/bin", "UV": uv}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
