"""Checkpoints as models: what verl's merger leaves to do, and what is refused."""

import json
import shutil

import pytest

pytest.importorskip("verl")


import peft
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from recipe.cxr_grpo import launch, merge
from recipe.cxr_grpo.demo.pretraining import MODEL
from recipe.cxr_grpo.running import checks, merging
from recipe.cxr_grpo.running.failures import RunFailed
from reward_fns.errors import UsageError

WORDS = {"input_ids": torch.arange(40, 72)[None]}


def write_checkpoint(folder, bias=0.0):
    """A step of GRPO as verl's FSDP2 saves it in one process, from the demo model with ``bias`` added to a weight."""
    shards = folder / "actor"
    (shards / "huggingface").mkdir(parents=True)
    for path in MODEL.iterdir():
        if path.suffix != ".safetensors":
            shutil.copy(path, shards / "huggingface")
    weights = {name: tensor.float() for name, tensor in load_file(MODEL / "model.safetensors").items()}
    first = min(weights)
    weights[first] += bias
    torch.save(weights, shards / "model_world_size_1_rank_0.pt")
    (shards / "fsdp_config.json").write_text(json.dumps({"FSDP_version": 2, "world_size": 1}))
    return first, weights


def test_the_command_makes_a_model_that_loads_with_its_processor(tmp_path, capsys):
    from transformers import AutoProcessor

    name, weights = write_checkpoint(tmp_path / "global_step_3", bias=0.5)
    assert merge.main([str(tmp_path / "global_step_3"), str(tmp_path / "model")]) == 0, capsys.readouterr().err
    made = load_file(tmp_path / "model" / "model.safetensors")
    assert {tensor.dtype for tensor in made.values()} == {torch.bfloat16}
    assert made[name].equal(weights[name].bfloat16()) and not made[name].equal(
        load_file(MODEL / "model.safetensors")[name]
    )
    AutoModelForImageTextToText.from_pretrained(tmp_path / "model")
    assert AutoProcessor.from_pretrained(tmp_path / "model").image_processor
    assert not (tmp_path / "model.tmp").exists()


@pytest.fixture
def merged(tmp_path, monkeypatch):
    """Merge a step whose shards become, as by verl's merger, a file with the step's name; returns the folder."""
    merges = []

    def shards(source, target):
        merges.append(source.parent.name)
        if source.parent.name == "global_step_9":
            raise ValueError("no rank 1")
        target.mkdir(parents=True)
        (target / "model.safetensors").write_text(source.parent.name)
        return target

    monkeypatch.setattr(merging, "_merge_shards", shards)

    def made(step):
        source = tmp_path / f"global_step_{step}" / "actor"
        if not source.exists():
            (source / "huggingface").mkdir(parents=True)
            for name in ("fsdp_config.json", "huggingface/config.json", "huggingface/tokenizer.json"):
                (source / name).write_text("{}")
        return merging.merge(source.parent, tmp_path / "model")

    made.out, made.merges = tmp_path / "model", merges
    return made


def test_a_model_of_the_same_step_stays_and_one_of_an_older_step_is_replaced(merged):
    assert merged(5) == f"{merged.out} is the model of {merged.out.parent}/global_step_5"
    assert merged(5) == f"{merged.out} already is the model of {merged.out.parent}/global_step_5"
    assert (merged.out / "tokenizer.json").exists()
    merged(6)
    assert (merged.out / "model.safetensors").read_text() == "global_step_6"
    assert merged.merges == ["global_step_5", "global_step_6"]


def test_a_step_that_was_trained_again_is_merged_again(merged, tmp_path):
    merged(5)
    shutil.rmtree(tmp_path / "global_step_5")
    merged(5)
    assert len(merged.merges) == 2


def test_a_failure_leaves_the_model_before_and_nothing_half_made(merged, tmp_path):
    merged(5)
    with pytest.raises(ValueError, match="no rank 1"):
        merged(9)
    assert (merged.out / "model.safetensors").read_text() == "global_step_5"
    assert not (tmp_path / "model.tmp").exists()


def test_what_is_no_checkpoint_and_what_is_no_merged_model_is_refused(merged, tmp_path):
    with pytest.raises(UsageError, match="is no checkpoint of FSDP"):
        merging.merge(tmp_path, tmp_path / "model")
    merged.out.mkdir()
    (merged.out / "notes.txt").touch()
    with pytest.raises(UsageError, match="is no merged model"):
        merged(5)
    assert (merged.out / "notes.txt").exists()


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """The demo model with an adapter beside it, as verl's merger leaves them, and logits with and without it."""
    folder = tmp_path_factory.mktemp("adapted") / "base"
    shutil.copytree(MODEL, folder)
    base = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.bfloat16)
    torch.manual_seed(0)
    with torch.no_grad():
        before = base(**WORDS).logits
        model = peft.get_peft_model(base, peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"]))
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.05)
        after = model(**WORDS).logits
    model.save_pretrained(folder / "lora_adapter")
    return folder, before, after


def test_adapters_are_added_to_the_weights(adapted, tmp_path):
    folder, before, after = adapted
    out = merging.merge_adapter(folder, tmp_path / "merged")
    assert not (out / "lora_adapter").exists()
    with torch.no_grad():
        logits = AutoModelForImageTextToText.from_pretrained(out, dtype=torch.bfloat16)(**WORDS).logits
    tolerance = 0.02 * float(after.abs().max())
    torch.testing.assert_close(logits, after, atol=tolerance, rtol=0.0)
    assert float((logits - before).abs().max()) > 5 * tolerance


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda name, weight: weight * ("lora_B" not in name), "changes no weight of the base in bf16"),
        (lambda name, weight: weight * float("nan"), "NaNs detected"),
    ],
)
def test_an_adapter_that_would_do_nothing_or_harm_is_refused(adapted, tmp_path, harm, message):
    folder = shutil.copytree(adapted[0], tmp_path / "base")
    path = folder / "lora_adapter" / "adapter_model.safetensors"
    save_file({name: harm(name, weight).contiguous() for name, weight in load_file(path).items()}, path)
    with pytest.raises(ValueError, match=message):
        merging.merge_adapter(folder, tmp_path / "merged")


def test_a_base_without_all_its_weights_is_refused(adapted, tmp_path):
    folder = shutil.copytree(adapted[0], tmp_path / "base")
    weights = load_file(folder / "model.safetensors")
    del weights[next(name for name in weights if "q_proj" in name)]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"1 weights of the base are not in the checkpoint, for example .*q_proj"):
        merging.merge_adapter(folder, tmp_path / "merged")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The folder of a finished run of three steps, the last of them saved."""
    write_run = {"step": 3, "data": {}}
    (tmp_path / "grpo.metrics.1.jsonl").write_text(json.dumps(write_run) + "\n")
    (tmp_path / "checkpoints" / "global_step_3" / "actor").mkdir(parents=True)
    (tmp_path / "checkpoints" / "global_step_3" / "actor" / "fsdp_config.json").write_text("{}")
    (tmp_path / "checkpoints" / "latest_checkpointed_iteration.txt").write_text("3")
    return tmp_path


def test_a_merge_that_fails_is_told_from_the_training_that_did_not(run):
    with pytest.raises(RunFailed) as failure:
        launch.merge_last("grpo", run, run / "checkpoints")
    said = str(failure.value)
    assert said.startswith("the training is complete, but its model could not be made")
    assert "verl's merger failed" in said


def test_no_model_of_an_older_step_than_the_last(run, capsys):
    (run / "grpo.metrics.2.jsonl").write_text(json.dumps({"step": 7, "data": {}}) + "\n")
    launch.merge_last("grpo", run, run / "checkpoints")
    assert f"no {run}/model: the last step was not saved" in capsys.readouterr().err
    assert not (run / "model").exists()


def test_folders_that_are_not_what_was_trained_are_no_model_to_start_from(tmp_path):
    key = "actor_rollout_ref.model.path"
    config = checks.compose("quickstart_grpo", [f"{key}={tmp_path}/step/huggingface"])
    folder = tmp_path / "step" / "huggingface"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    checks.check_inputs(config, [key])
    (tmp_path / "step" / "fsdp_config.json").write_text("{}")
    with pytest.raises(
        UsageError, match=r"what was trained is in the shards around it.* recipe\.cxr_grpo\.merge CHECKPOINT"
    ):
        checks.check_inputs(config, [key])
    (folder / "model.safetensors").touch()
    checks.check_inputs(config, [key])
    (folder / "lora_adapter").mkdir()
    with pytest.raises(UsageError, match="what was trained is in lora_adapter/, and beside it is the bare base"):
        checks.check_inputs(config, [key])
