import json
import os
import shutil
import socket
import subprocess
import sys

import pytest

pytest.importorskip("torch")
pytest.importorskip("safetensors")

import torch
from safetensors.torch import save_file

from recipe.cxr_grpo.records import checkpoints
from reward_fns.errors import UsageError


def write(folder, step, *, sealed=True, world_size=1):
    """A checkpoint in the layout of verl 0.9.1's GRPO trainer."""
    checkpoint = folder / f"global_step_{step}"
    actor = checkpoint / "actor"
    (actor / "huggingface").mkdir(parents=True)
    weights = {"layer.weight": torch.full((64, 8), float(step), dtype=torch.bfloat16), "ids": torch.arange(3)}
    for rank in range(world_size):
        torch.save(weights, actor / f"model_world_size_{world_size}_rank_{rank}.pt")
        moments = {"state": {0: {"exp_avg": torch.ones(64, 8), "step": torch.tensor(1.0)}}, "param_groups": [{"lr": 1}]}
        torch.save(moments, actor / f"optim_world_size_{world_size}_rank_{rank}.pt")
        extra = {"rng": {"random": (3, (1, 2), None), "order": {1, 2}}}  # a set is not loaded with weights_only
        torch.save(extra, actor / f"extra_state_world_size_{world_size}_rank_{rank}.pt")
    save_file(weights, actor / "huggingface" / "model.safetensors")
    (actor / "huggingface" / "config.json").write_text("{}")
    torch.save({"_num_yielded": step}, checkpoint / "data.pt")
    (folder / checkpoints.TRACKER).write_text(str(step))
    if sealed:
        checkpoints.seal(checkpoint)
    return checkpoint


MODEL = "actor/model_world_size_1_rank_0.pt"
OPTIMIZER = "actor/optim_world_size_1_rank_0.pt"
HF = "actor/huggingface/model.safetensors"


def truncate(path):
    os.truncate(path, path.stat().st_size - 100)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path):
    os.truncate(path, 0)


def remove(path):
    path.unlink()


@pytest.mark.parametrize("name", [MODEL, OPTIMIZER, HF, "data.pt", "actor/extra_state_world_size_1_rank_0.pt"])
@pytest.mark.parametrize("harm", [truncate, flip, empty, remove])
def test_a_sealed_checkpoint_is_sound_until_any_file_of_it_is_harmed(tmp_path, name, harm):
    checkpoint = write(tmp_path, 10)
    assert checkpoints.defect(checkpoint) is None
    harm(checkpoint / name)
    assert checkpoints.defect(checkpoint).startswith(name)


@pytest.mark.parametrize("name", [MODEL, OPTIMIZER, "data.pt"])
@pytest.mark.parametrize("harm", [truncate, flip, empty, remove])
def test_harm_is_found_without_a_manifest_too(tmp_path, name, harm):
    checkpoint = write(tmp_path, 10, sealed=False)
    assert checkpoints.unsealed_defect(checkpoint) is None
    harm(checkpoint / name)
    reason = checkpoints.unsealed_defect(checkpoint)
    if (name, harm) == (MODEL, remove):
        assert reason == "it has no shards of the model"
    elif (name, harm) == (OPTIMIZER, remove):
        assert reason is None  # a run may be told to save no optimizer
    else:
        assert reason.startswith(name)


def test_a_rank_that_did_not_finish_is_missed(tmp_path):
    checkpoint = write(tmp_path, 10, sealed=False, world_size=4)
    assert checkpoints.unsealed_defect(checkpoint) is None
    (checkpoint / "actor" / "optim_world_size_4_rank_2.pt").unlink()
    assert checkpoints.unsealed_defect(checkpoint) == "actor/optim_world_size_4_rank_2.pt is missing"


@pytest.mark.parametrize("name", [MODEL, OPTIMIZER, HF])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("sealed", [True, False])
def test_weights_that_are_not_finite_are_no_checkpoint(tmp_path, name, bad, sealed):
    checkpoint = write(tmp_path, 10, sealed=False)
    weights = torch.ones(64, 8, dtype=torch.bfloat16)
    weights[63, 7] = bad
    if name == HF:
        save_file({"layer.weight": weights}, checkpoint / name)
    else:
        torch.save({"state": {"layer.weight": weights}}, checkpoint / name)
    if sealed:
        checkpoints.seal(checkpoint)
    reason = (checkpoints.defect if sealed else checkpoints.unsealed_defect)(checkpoint)
    assert reason.startswith(f"{name} has NaN or infinity in ") and reason.endswith("layer.weight")


def test_400_bytes_of_0xff_in_a_model_are_found(tmp_path):
    """As a bad disk leaves it, in a file too large to be hashed whole, between two of the hashed blocks."""
    checkpoint = write(tmp_path, 10, sealed=False)
    torch.save({"layer.weight": torch.ones(160 * 2**20, dtype=torch.uint8).view(torch.bfloat16)}, checkpoint / MODEL)
    checkpoints.seal(checkpoint)
    with (checkpoint / MODEL).open("r+b") as file:
        file.seek(2**20 + 2**19)  # the second block starts at 2.5 MiB
        file.write(b"\xff" * 400)
    assert checkpoints.defect(checkpoint) == f"{MODEL} has NaN or infinity in layer.weight"


SHARDED = """
import os, sys
import torch
from torch.distributed.fsdp import fully_shard
rank = int(os.environ["RANK"])
torch.distributed.init_process_group("gloo")
model = torch.nn.Linear(8, 8)
fully_shard(model)
torch.save(model.state_dict(), f"{sys.argv[1]}/model_world_size_2_rank_{rank}.pt")
if rank == 1:
    with torch.no_grad():
        model.weight.to_local()[1, 3] = float("nan")
torch.save(model.state_dict(), f"{sys.argv[1]}/optim_world_size_2_rank_{rank}.pt")
"""


def test_the_shards_of_fsdp_are_looked_into(tmp_path):
    checkpoint = write(tmp_path, 10, sealed=False)
    actor = checkpoint / "actor"
    (checkpoint / MODEL).unlink()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    env = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SHARDED, str(actor)]
    ranks = [subprocess.Popen(command, env=env | {"RANK": str(rank)}) for rank in range(2)]
    assert [rank.wait(timeout=200) for rank in ranks] == [0, 0]
    found = "actor/optim_world_size_2_rank_1.pt has NaN or infinity in weight"
    assert checkpoints.unsealed_defect(checkpoint) == found
    checkpoints.seal(checkpoint)
    assert checkpoints.defect(checkpoint) == found
    for path in actor.glob("optim_world_size_2_*"):
        path.unlink()
    assert checkpoints.unsealed_defect(checkpoint) is None


def test_a_shard_of_a_type_that_is_not_loaded_here_is_sound(tmp_path):
    checkpoint = write(tmp_path, 10, sealed=False)
    torch.save({"weights": {1, 2}, "layer.weight": torch.ones(3)}, checkpoint / MODEL)  # no weights_only for a set
    assert checkpoints.unsealed_defect(checkpoint) is None


def test_no_manifest_means_unfinished(tmp_path):
    checkpoint = write(tmp_path, 10, sealed=False)
    assert checkpoints.defect(checkpoint) == "no manifest.json: it was not finished"


def test_a_seal_is_written_anew_over_an_older_one(tmp_path):
    checkpoint = write(tmp_path, 10)
    torch.save({"_num_yielded": 3}, checkpoint / "data.pt")
    assert checkpoints.defect(checkpoint) is not None
    checkpoints.seal(checkpoint)
    assert checkpoints.defect(checkpoint) is None
    assert checkpoints.MANIFEST not in json.loads((checkpoint / checkpoints.MANIFEST).read_text())["files"]


def test_a_damaged_manifest_is_no_seal(tmp_path):
    checkpoint = write(tmp_path, 10)
    truncate(checkpoint / checkpoints.MANIFEST)
    assert "manifest.json can't be read" in checkpoints.defect(checkpoint)


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def test_nothing_there_is_the_beginning(tmp_path):
    assert checkpoints.choose(tmp_path / "nowhere") == 0
    assert checkpoints.choose(tmp_path) == 0


@pytest.mark.parametrize("harm", [truncate, flip, empty, remove])
def test_the_newest_sound_one_is_chosen_and_a_bad_one_is_moved_aside(tmp_path, harm, capsys):
    write(tmp_path, 10)
    newest = write(tmp_path, 20)
    harm(newest / MODEL)
    assert checkpoints.choose(tmp_path, keep=2) == 10
    assert names(tmp_path) == ["global_step_10", "global_step_20.damaged"]
    assert (tmp_path / checkpoints.TRACKER).read_text() == "10"
    said = capsys.readouterr().err
    assert f"{newest} is not used: {MODEL} " in said and "It is now global_step_20.damaged" in said
    assert "said '20', now 10" in said


def test_a_second_damaged_one_of_a_step_does_not_replace_the_first(tmp_path):
    write(tmp_path, 10)
    for _ in range(2):
        truncate(write(tmp_path, 20) / MODEL)
        assert checkpoints.choose(tmp_path) == 10
    assert names(tmp_path) == ["global_step_10", "global_step_20.damaged", "global_step_20.damaged.1"]


def test_a_save_that_was_interrupted_after_verl_removed_the_old_actor(tmp_path):
    """verl's window: the new actor is written, the old one is gone, neither data.pt nor the tracker are of the new."""
    write(tmp_path, 10)
    old = write(tmp_path, 20)
    new = write(tmp_path, 30, sealed=False)
    (new / "data.pt").unlink()
    for path in (old / "actor").rglob("*.*"):
        path.unlink()
    (tmp_path / checkpoints.TRACKER).write_text("20")
    assert checkpoints.choose(tmp_path, keep=2) == 10
    assert names(tmp_path) == ["global_step_10", "global_step_20.damaged", "global_step_30.damaged"]


@pytest.mark.parametrize("tracker", ["", "20", "\0\0", None])
def test_the_tracker_is_put_right(tmp_path, tracker):
    write(tmp_path, 10)
    write(tmp_path, 30)
    path = tmp_path / checkpoints.TRACKER
    path.unlink() if tracker is None else path.write_text(tracker)
    assert checkpoints.choose(tmp_path) == 30
    assert path.read_text() == "30"


def test_a_checkpoint_of_an_older_version_is_used_and_that_is_said(tmp_path, capsys):
    checkpoint = write(tmp_path, 10, sealed=False)
    assert checkpoints.choose(tmp_path, keep=1) == 10
    said = capsys.readouterr().err
    assert f"{checkpoint} has no manifest.json (it is of supervised training or an older version" in said


def test_none_sound_is_refused_and_nothing_is_moved(tmp_path):
    truncate(write(tmp_path, 10) / MODEL)
    (write(tmp_path, 20, sealed=False) / "data.pt").unlink()
    with pytest.raises(UsageError) as refused:
        checkpoints.choose(tmp_path)
    message = str(refused.value)
    assert "global_step_20: data.pt is missing" in message and f"global_step_10: {MODEL} has" in message
    assert "To start again from the first step, choose another --out" in message
    assert names(tmp_path) == ["global_step_10", "global_step_20"]


def test_a_tracker_without_its_checkpoint_is_refused(tmp_path):
    (tmp_path / checkpoints.TRACKER).write_text("20")
    with pytest.raises(UsageError, match=rf"{checkpoints.TRACKER} names one"):
        checkpoints.choose(tmp_path)


def test_a_run_whose_first_save_was_interrupted_starts_again_and_says_so(tmp_path, capsys):
    checkpoint = write(tmp_path, 10, sealed=False)
    (checkpoint / "data.pt").unlink()
    (tmp_path / checkpoints.TRACKER).unlink()
    assert checkpoints.choose(tmp_path) == 0
    assert names(tmp_path) == ["global_step_10.damaged"]
    assert "no checkpoint was ever finished, so the run starts from its first step" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("keep", "left"), [(1, [20, 40]), (2, [20, 30, 40]), (3, [10, 20, 30, 40]), (None, [5, 10, 20, 30, 40])]
)
def test_leftovers_of_earlier_attempts_are_removed_but_not_what_nobody_sealed(tmp_path, keep, left):
    for step in (5, 10, 20, 30, 40):
        write(tmp_path, step, sealed=step != 20)
    assert checkpoints.choose(tmp_path, keep) == 40
    assert names(tmp_path) == sorted(f"global_step_{step}" for step in left)


def test_what_verl_left_of_a_checkpoint_does_not_count_as_one_to_keep(tmp_path):
    for step in (10, 20, 30):
        write(tmp_path, step)
    shutil.rmtree(tmp_path / "global_step_20" / "actor")
    assert checkpoints.choose(tmp_path, keep=2) == 30
    assert names(tmp_path) == ["global_step_10", "global_step_20", "global_step_30"]


def write_supervised(folder, step):
    """A checkpoint in the layout of verl 0.9.1's SFT trainer."""
    checkpoint = write(folder, step, sealed=False)
    for path in (checkpoint / "actor").glob("*.pt"):
        path.rename(checkpoint / path.name)
    (checkpoint / "data.pt").rename(checkpoint / "data_0.pt")
    return checkpoint


def test_a_checkpoint_of_supervised_training_has_its_shards_in_another_place(tmp_path):
    checkpoint = write_supervised(tmp_path, 10)
    assert checkpoints.choose(tmp_path) == 10
    truncate(checkpoint / "model_world_size_1_rank_0.pt")
    with pytest.raises(UsageError, match=r"model_world_size_1_rank_0\.pt is damaged"):
        checkpoints.choose(tmp_path)


@pytest.mark.parametrize(("keep", "left"), [(1, [40]), (2, [20, 30, 40]), (None, [5, 10, 20, 30, 40])])
def test_leftovers_of_supervised_training_are_removed_too(tmp_path, capsys, keep, left):
    for step in (5, 10, 20, 30, 40):
        write_supervised(tmp_path, step)
    (tmp_path / "global_step_30" / "data_0.pt").unlink()
    assert checkpoints.choose(tmp_path, keep) == 40
    assert names(tmp_path) == sorted(f"global_step_{step}" for step in left)
    said = f"{tmp_path / 'global_step_10'} is removed: trainer.max_ckpt_to_keep={keep}"
    assert (said in capsys.readouterr().err) is (keep is not None)


def test_a_checkpoint_that_is_named_is_checked(tmp_path):
    checkpoint = write(tmp_path, 10)
    checkpoints.check_path(checkpoint)
    truncate(checkpoint / "data.pt")
    with pytest.raises(UsageError, match=r"resume_from_path: .*global_step_10: data.pt has \d+ bytes instead of"):
        checkpoints.check_path(checkpoint)
    with pytest.raises(UsageError, match="no folder global_step_N"):
        checkpoints.check_path(tmp_path)
