import json
import os
import subprocess
import tarfile
from pathlib import Path
from xml.etree import ElementTree

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[2]
REAL = Path(os.environ.get("CXR_GRPO_REAL_DATA", ROOT.parent / "shared" / "data" / "real"))
collect_ignore_glob = ["reference_*.py"]  # they import the reference packages, which only their own environment has


@pytest.fixture(scope="session")
def reference(tmp_path_factory):
    """Run a script of this folder where the reference packages are: `reference("reference_x.py", payload) -> result`.

    The script finds its payload as JSON on standard input and writes its result as JSON to the path it is given.
    The virtual environment is made by the first test that asks; PARITY_VENV puts it elsewhere.
    """
    venv = Path(os.environ.get("PARITY_VENV", ROOT / ".venv-parity")).absolute()
    install = ["bash", str(ROOT / "examples/install.sh"), str(venv), "reference"]
    with FileLock(f"{venv}.lock"):  # tests may run in several processes
        made = subprocess.run(install, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert made.returncode == 0, made.stdout
    folder = tmp_path_factory.mktemp("reference")

    def run(script, payload):
        path = folder / f"{script}.{len(list(folder.iterdir()))}.json"
        command = [str(venv / "bin/python"), str(ROOT / "tests/parity" / script), str(path)]
        env = os.environ | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false"}
        env.pop("PYTHONPATH", None)
        done = subprocess.run(
            command, input=json.dumps(payload), env=env, cwd=folder, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-4000:]
        return json.loads(path.read_text())

    return run


@pytest.fixture(scope="session")
def real_reports():
    """Findings and impressions of the OpenI reports, where this machine has them."""
    archive = REAL / "NLMCXR_reports.tgz"
    if not archive.is_file():
        pytest.skip(f"no {archive}")
    reports = []
    with tarfile.open(archive) as tar:
        for member in sorted((m for m in tar if m.name.endswith(".xml")), key=lambda m: m.name):
            labelled = {p.get("Label"): p.text for p in ElementTree.parse(tar.extractfile(member)).iter("AbstractText")}
            texts = [labelled[label] for label in ("FINDINGS", "IMPRESSION") if labelled.get(label)]
            reports += ["\n".join(texts)] if texts else []
    return reports
