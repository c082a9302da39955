"""Answers of the demo model by vLLM, and a round trip to ReXrank."""

import json
import os
import subprocess
import sys
import sysconfig
import time

import pyarrow.parquet as pq
import pytest
from PIL import Image

pytest.importorskip("vllm")

from data_prep.cli import main as data_prep
from recipe.cxr_grpo import rexrank
from recipe.cxr_grpo.demo import pretraining
from recipe.cxr_grpo.evaluation.generation import read_rows
from reward_fns.models import shims

# One vLLM at a time on a machine's CPU.
pytestmark = [pytest.mark.e2e, pytest.mark.vllm]
# Runs a script without this package, but for one file: torchvision's compiled part may not go with torch.
CLEAN = """
import runpy, sys
sys.path.append(sys.argv.pop(1))
shims = runpy.run_path(sys.argv.pop(1))
shims["torchvision_operators"]()
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
ours = [name for name in sys.modules if name.split(".")[0] in ("recipe", "reward_fns", "data_prep", "verl")]
assert not ours, ours
"""


def command(data, out, *options):
    line = [
        sys.executable,
        "-m",
        "recipe.cxr_grpo.generate",
        "--model",
        pretraining.MODEL,
        "--data",
        data,
        "--out",
        out,
    ]
    return [*map(str, line), "--max-tokens", "48", *options]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The report and grounding rows of a few demo patients."""
    out = tmp_path_factory.mktemp("data")
    assert data_prep(["demo", "--out", str(out), "--patients", "16", "--max-pixels", "16384"]) == 0
    return out / "val.parquet"


def test_a_killed_run_goes_on_and_answers_as_an_undisturbed_one(data, tmp_path):
    options = ["--films", "own,swapped", "--engine", json.dumps({"max_num_seqs": 2})]
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    done = subprocess.run(command(data, undisturbed, *options), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = read_rows((undisturbed / "predictions.jsonl").read_bytes())
    ids = pq.read_table(data)["extra_info"].to_pylist()
    assert [(row["films"], row["id"]) for row in rows] == [
        (arm, info["id"]) for arm in ("own", "swapped") for info in ids
    ]
    assert len({row["prediction"] for row in rows}) > len(ids) / 2 and not any("error" in row for row in rows)

    journal, process = killed / "journal-0-of-1.jsonl", subprocess.Popen(command(data, killed, *options))
    while not journal.exists() or journal.read_bytes().count(b"\n") < 3:
        assert process.poll() is None
        time.sleep(0.002)
    process.kill()
    process.wait()
    before = journal.read_bytes()
    assert before.count(b"\n") < len(rows) and not (killed / "predictions.jsonl").exists()
    journal.write_bytes(before[:-5])
    subprocess.run(command(data, killed, *options), check=True)
    whole = before[: before[:-5].rfind(b"\n") + 1]
    assert journal.read_bytes().startswith(whole) and journal.read_bytes().count(b"\n") == len(rows)
    assert (killed / "predictions.jsonl").read_text() == (undisturbed / "predictions.jsonl").read_text()


def test_a_submission_to_rexrank_answers_as_generate_does_without_this_package(data, tmp_path):
    rows = [row for row in pq.read_table(data).to_pylist() if row["extra_info"]["task"] == "report"][:4]
    studies = {}
    for number, row in enumerate(rows):
        study = f"CXR{number}_IM-1"
        path = tmp_path / "images" / study / "0.png"
        path.parent.mkdir(parents=True)
        Image.open(row["images"][0]["image"].removeprefix("file://")).save(path)
        text = json.loads(row["reward_model"]["ground_truth"])["report"]
        studies[study] = {"image_path": [f"{study}/0.png"], "key_image_path": f"{study}/0.png"}
        studies[study] |= {"frontal_lateral": ["Frontal"], "section_findings": text, "section_impression": float("nan")}
    source, root, bounds = tmp_path / "in.json", tmp_path / "images", ["--max-pixels", "16384"]
    source.write_text(json.dumps(studies))
    run = [["import", source, "--img-root", root, "--out", tmp_path / "data", *bounds]]
    run += [["package", pretraining.MODEL, "--out", tmp_path / "submission", *bounds]]
    assert [rexrank.main([*map(str, words)]) for words in run] == [0, 0]
    subprocess.run(command(tmp_path / "data" / "test.parquet", tmp_path / "answers"), check=True)
    words = ["export", tmp_path / "answers", "--input", source, "--out", tmp_path / "by_generate.json"]
    assert rexrank.main([*map(str, words)]) == 0

    isolated = [sys.executable, "-I", "-S", "-c", CLEAN, sysconfig.get_path("purelib"), shims.__file__]
    script = [tmp_path / "submission" / "inference.py", "--input_json_file", source, "--img_root_dir", root]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("VERL", "PYTHON"))}
    done = subprocess.run(
        [*isolated, *map(str, script), "--save_json_file", str(tmp_path / "by_script.json")],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers = [json.loads((tmp_path / f"by_{name}.json").read_text()) for name in ("generate", "script")]
    assert json.dumps(answers[0]) == json.dumps(answers[1])
    assert [*answers[0]] == [*studies] and all(entry["model_prediction"] for entry in answers[0].values())
