import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

pytest.importorskip("verl")
import huggingface_hub

from data_prep.cli import main as data_prep
from recipe.cxr_grpo.plugin.trial import row_of_each_task
from recipe.cxr_grpo.readiness import inputs
from reward_fns.errors import UsageError
from reward_fns.settings import EngineOptions
from reward_fns.spec import resolve


@pytest.fixture
def model(tmp_path):
    """A folder with all files of a model."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "tokenizer_config.json"):
        (folder / name).write_text("{}")
    save_file({"weight": np.zeros(1000)}, folder / "model.safetensors")
    return folder


def test_a_whole_model_passes(model):
    assert inputs.model_folder(str(model), False) == model
    assert inputs.check_weights(model, "mine") == "0.00 GB in 1 files"


@pytest.mark.parametrize("missing", ["tokenizer_config.json", "model.safetensors", "model-00002-of-00002.safetensors"])
def test_half_a_model_is_refused_by_what_it_lacks(model, missing):
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    shutil.copy(model / "model.safetensors", model / "model-00002-of-00002.safetensors")
    (model / missing).unlink()
    with pytest.raises(UsageError, match=rf"model has no {missing}: `hf download mine`"):
        inputs.check_weights(model, "mine")


def test_a_folder_without_config_is_no_model(model):
    (model / "config.json").unlink()
    with pytest.raises(UsageError, match=r"has no config\.json"):
        inputs.model_folder(str(model), False)


def test_weights_that_were_cut_off_are_refused(model):
    os.truncate(model / "model.safetensors", 5000)
    with pytest.raises(UsageError, match=r"model\.safetensors is damaged or cut off .*: copy it again"):
        inputs.check_weights(model, "mine")


def test_a_hub_id_is_looked_for_in_the_cache_and_fetched_on_demand(model, monkeypatch):
    asked = []

    def snapshot_download(name, local_files_only):
        asked.append((name, local_files_only))
        if local_files_only:
            raise FileNotFoundError("no such snapshot")
        return str(model)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(UsageError, match="`hf download Qwen/Qwen3-VL-8B-Instruct`, or --download"):
        inputs.model_folder("Qwen/Qwen3-VL-8B-Instruct", False)
    assert inputs.model_folder("Qwen/Qwen3-VL-8B-Instruct", True) == model
    assert [only for _, only in asked] == [True, False]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Demo films for both trainers."""
    root = tmp_path_factory.mktemp("demo")
    assert data_prep(["demo", "--out", str(root), "--patients", "8", "--shares", "0.5,0.5,0"]) == 0
    return root


def test_data_of_either_trainer_passes(data):
    rows = [pq.read_metadata(data / name).num_rows for name in ("train.parquet", "val.parquet")]
    found = inputs.check_data("grpo", [data / "train.parquet", data / "val.parquet"])
    assert found.startswith(f"{sum(rows)} rows in 2 files")
    assert inputs.check_data("sft", [data / "sft_train.parquet"])


def test_data_for_the_other_trainer_is_refused(data):
    with pytest.raises(UsageError, match=r"sft_train.parquet has no rows for grpo"):
        inputs.check_data("grpo", [data / "sft_train.parquet"])
    with pytest.raises(UsageError, match=r"train.parquet has no rows for sft"):
        inputs.check_data("sft", [data / "train.parquet"])


def with_column(table, name, change):
    """The table with other values in a column: ``change`` of each."""
    column = pa.array([change(value) for value in table[name].to_pylist()], table[name].type)
    return table.set_column(table.column_names.index(name), table.schema.field(name), column)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop(["ability"]), "column ability"),
        (lambda table: table.slice(0, 0), "has no rows"),
        (lambda table: with_column(table, "images", lambda images: images * 2), "but 2 images"),
        (lambda table: with_column(table, "data_source", lambda name: "mine"), "data_source 'mine' must be"),
    ],
)
def test_defects_of_a_file_are_named(data, tmp_path, change, message):
    pq.write_table(change(pq.read_table(data / "train.parquet")), tmp_path / "broken.parquet")
    with pytest.raises(UsageError, match=f"broken.parquet.*{message}"):
        inputs.check_data("grpo", [tmp_path / "broken.parquet"])


def test_films_that_were_moved_are_missed(data, tmp_path):
    assert data_prep(["demo", "--out", str(tmp_path / "a"), "--patients", "4", "--shares", "1,0,0"]) == 0
    (tmp_path / "a").rename(tmp_path / "b")
    with pytest.raises(UsageError, match=r"does not exist; was it moved after the data were prepared\?"):
        inputs.check_data("grpo", [tmp_path / "b" / "train.parquet"])


@pytest.fixture
def report(data):
    """A row of a report."""
    spec = resolve({"report": [{"name": "gleu"}], "grounding": [{"name": "box_iou"}]})
    return next(row for row in row_of_each_task([data / "train.parquet"], spec) if row.data_source.endswith("report"))


def one(report, item, *, engine=None, verl_judge=False):
    spec = resolve({"report": [item]})
    spec = replace(spec, engine=engine or spec.engine)
    return inputs.check_reward(report, "report", spec.tasks["report"][0], spec, verl_judge)


def test_a_reward_scores_the_gold_answer(report):
    result = one(report, {"name": "gleu"})
    assert result.status == "pass" and result.found.startswith("1.000 for a true report")


def test_scorers_of_a_cluster_that_is_not_there_yet_run_here(report):
    engine = EngineOptions(where="ray", replicas=4, gpus=0.5)
    assert one(report, {"name": "gleu"}, engine=engine).status == "pass"


def test_a_judge_without_an_address_fails_unless_verl_starts_it(report, monkeypatch):
    pytest.importorskip("openai")
    monkeypatch.delenv("CXR_GRPO_JUDGE_URL", raising=False)
    with pytest.raises(UsageError, match="no judge server is named"):
        one(report, {"name": "green"})
    assert one(report, {"name": "green"}, verl_judge=True).status == "skip"
    assert one(report, {"name": "gleu"}, verl_judge=True).status == "pass"


BROKEN = """
from reward_fns import reward


@reward("{name}", task="report", range=(0.0, 1.0))
def {name}(prediction: str, reference: str) -> float:
    return float("nan")
"""


@pytest.mark.parametrize(("weight", "status"), [(0.5, "fail"), (0.0, "warn")])
def test_a_reward_that_only_watches_fails_with_a_warning(report, tmp_path, weight, status):
    name = f"broken_{status}"
    (tmp_path / "mine.py").write_text(BROKEN.format(name=name))
    result = one(report, {"name": name, "weight": weight, "path": str(tmp_path / "mine.py")})
    assert result.status == status and f"reward '{name}' failed" in result.found
