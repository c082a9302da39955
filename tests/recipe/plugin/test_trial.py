import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf

from recipe.cxr_grpo.plugin.trial import parquet_files, row_of_each_task, try_rewards
from reward_fns.calling import counts
from reward_fns.errors import UsageError
from reward_fns.scoring import score_batch
from reward_fns.spec import resolve

BOTH = {"report": [{"name": "gleu"}], "grounding": [{"name": "box_iou"}]}
LOOKS = """
from reward_fns import reward


@reward("looks", task="report", range=(0.0, 100.0))
def looks(prediction, reference, extra_info):
    return extra_info["global_steps"] + extra_info["num_turns"]
"""
TRUTHS = {"report": {"report": "No effusion."}, "grounding": {"boxes": [[0.1, 0.2, 0.5, 0.6]]}}


def parquet(path, *tasks, thinking=False):
    """A file with one row for each of these tasks, two rows to a row group."""
    rows = [
        {
            "data_source": f"demo/{task}",
            "reward_model": {"ground_truth": json.dumps(TRUTHS[task])},
            "extra_info": {"id": f"{task}-{i}", "task": task, "thinking": thinking, "width": 9, "height": 9},
        }
        for i, task in enumerate(tasks)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    return path


@pytest.mark.parametrize("thinking", [False, True])
def test_the_first_row_of_each_task_with_its_gold_answer(tmp_path, thinking):
    files = [parquet(tmp_path / "a", *["report"] * 5, "grounding", thinking=thinking)]
    files.append(parquet(tmp_path / "b", "grounding"))
    found = row_of_each_task(files, resolve(BOTH))
    assert [row.extra_info["id"] for row in found] == ["report-0", "grounding-5"]
    assert [row.solution_str.rpartition("> ")[2] for row in found] == ["No effusion.", "[0.1, 0.2, 0.5, 0.6]"]
    assert try_rewards(None, found, {"spec": BOTH}) == "" and counts() == {}


def test_a_task_that_the_spec_lacks_is_refused_whichever_row_it_is_in(tmp_path):
    file = parquet(tmp_path / "train.parquet", *["grounding"] * 4, "report")
    with pytest.raises(UsageError, match=r"train.parquet has rows of task 'report', for which the reward spec has no"):
        row_of_each_task([file], resolve({"grounding": BOTH["grounding"]}))


def test_files_of_other_formats_are_left_to_verl(tmp_path):
    pq.write_table(pa.table({"prompt": ["x"]}), tmp_path / "other.parquet")
    assert row_of_each_task([tmp_path / "other.parquet"], resolve(BOTH)) == []
    config = OmegaConf.create({"data": {"train_files": str(tmp_path / "other.parquet"), "val_files": ["no.parquet"]}})
    assert parquet_files(config) == [tmp_path / "other.parquet"]


def test_a_judge_without_an_address_is_found_before_the_first_step(tmp_path, monkeypatch):
    monkeypatch.delenv("CXR_GRPO_JUDGE_URL", raising=False)
    pytest.importorskip("openai")
    rows = row_of_each_task([parquet(tmp_path / "a", "report")], resolve({"report": [{"name": "green"}]}))
    assert "no judge server is named" in try_rewards(None, rows, {"spec": {"report": [{"name": "green"}]}})


def test_a_reward_finds_in_extra_info_what_verl_adds(tmp_path):
    (row,) = row_of_each_task([parquet(tmp_path / "a", "report")], resolve(BOTH))
    (tmp_path / "mine.py").write_text(LOOKS)
    spec = {"report": [{"name": "looks", "path": str(tmp_path / "mine.py")}]}
    assert try_rewards(None, [row], {"spec": spec}, 7) == ""
    assert "KeyError('global_steps')" in str(score_batch([row], resolve(spec))[0])


def test_a_row_that_cannot_be_scored_is_found_before_the_first_step(tmp_path):
    (row,) = row_of_each_task([parquet(tmp_path / "a", "report")], resolve(BOTH))
    broken = row._replace(ground_truth='{"report": 3}')
    assert "correct this row" in try_rewards(None, [broken], {"spec": BOTH})


def test_a_file_that_is_not_parquet_is_named(tmp_path):
    (tmp_path / "train.parquet").write_text("")
    with pytest.raises(UsageError, match=r"train.parquet can't be read as parquet: .* Make it again with data_prep"):
        row_of_each_task([tmp_path / "train.parquet"], resolve(BOTH))
