"""examples/install.sh where its pip is a fake: which step follows from what the machine has."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "install.sh"
TOOLS = ("awk", "cat", "cksum", "df", "dirname", "grep", "paste", "sh", "sort", "tail", "tr", "uname")
PYTHON = """#!/bin/sh
echo "$*" >>"$CALLS"
case "$*" in
  *--only-binary*flash-attn*) exit "$WHEEL" ;;
  *--no-build-isolation*) echo "for $FLASH_ATTN_CUDA_ARCHS" >>"$CALLS"; exit "$BUILD" ;;
  "-m pip show"*) exit 1 ;;
  *version_info*) exit "$OTHER_PYTHON" ;;
esac
"""


@pytest.fixture
def install(tmp_path):
    """Run the script with these extras; returns its output and the calls of pip."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in TOOLS:
        (programs / name).symlink_to(shutil.which(name))
    (programs / "python3").symlink_to(sys.executable)

    def program(name, text="#!/bin/sh\n"):
        path = programs / name
        path.write_text(text)
        path.chmod(0o755)

    def run(extras, wheel=0, build=0, nvcc=False, other_python=0):
        (tmp_path / "venv/bin").mkdir(parents=True, exist_ok=True)
        program("../venv/bin/python", PYTHON)
        if nvcc:
            program("nvcc")
            program("nvidia-smi", "#!/bin/sh\nprintf '9.0\\n9.0\\n'\n")
        calls = tmp_path / "calls"
        calls.write_text("")
        env = os.environ | {"CALLS": str(calls), "WHEEL": str(wheel), "BUILD": str(build)}
        env["OTHER_PYTHON"] = str(other_python)
        env["PATH"] = str(programs)
        command = [shutil.which("bash"), str(SCRIPT), str(tmp_path / "venv"), extras]
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout, calls.read_text().splitlines()

    return run


def test_a_gpu_node_gets_no_torch_for_the_cpu_and_flash_attn_from_a_wheel(install):
    output, calls = install("gpu")
    assert not any("whl/cpu" in call for call in calls)
    assert "install: flash-attn from a wheel" in output
    assert not any("--no-build-isolation" in call for call in calls)
    assert install("gpu") == ("", [])  # done


def test_without_a_wheel_it_is_built_for_the_gpu_of_the_node(install):
    output, calls = install("gpu", wheel=1, nvcc=True)
    assert "for 90" in calls and "install: flash-attn built" in output


@pytest.mark.parametrize(
    ("nvcc", "why"), [(False, "nvcc, which would build it, is missing"), (True, "its build failed")]
)
def test_without_either_it_says_what_is_used_instead_and_tries_again_next_time(install, nvcc, why):
    output, _ = install("gpu", wheel=1, build=1, nvcc=nvcc)
    assert why in output and "attention (sdpa) instead" in output
    assert "install: flash-attn from a wheel" in install("gpu")[0]


def test_a_gpu_node_with_python_3_12_gets_the_pinned_set_of_its_architecture(install):
    lock = SCRIPT.parent / "locks" / f"gpu-{platform.machine()}.txt"
    asked = [call for call in install("gpu")[1] if call.endswith("[gpu]")]
    assert len(asked) == 1 and f"--constraint {lock} -e " in asked[0]
    assert "torch==2.11.0\n" in lock.read_text() and "flash-attn" not in lock.read_text()


def test_other_pythons_and_laptops_get_what_pip_finds(install):
    assert not any("--constraint" in call for call in install("gpu", other_python=1)[1])
    assert not any("--constraint" in call for call in install("cpu,dev")[1])


def test_a_laptop_gets_torch_for_the_cpu_and_no_flash_attn(install):
    _, calls = install("cpu,dev")
    assert any("--extra-index-url https://download.pytorch.org/whl/cpu" in call for call in calls)
    assert not any("flash" in call for call in calls)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--help"], 0, "usage: bash examples/install.sh VENV EXTRAS"),
        (
            [".venv"],
            2,
            "EXTRAS are some of these, with commas between them: cpu gpu scorers serve judge fusion eval dev reference",
        ),
        ([".venv", "cuda,dev"], 2, "install: unknown extra 'cuda'; choose from: cpu gpu"),
    ],
)
def test_wrong_arguments_are_answered_with_the_extras(tmp_path, arguments, status, message):
    done = subprocess.run(["bash", str(SCRIPT), *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == status and message in (done.stderr if status else done.stdout)
    assert not [*tmp_path.iterdir()]
