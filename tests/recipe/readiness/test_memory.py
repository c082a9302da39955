"""The arithmetic against what is known of Qwen3-VL-8B: 8.77 B parameters, 140 GB of fp32 states, 17.5 GB in vLLM."""

import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("verl")

from verl.utils.checkpoint.checkpoint_manager import BaseCheckpointManager

from recipe.cxr_grpo.readiness import memory
from recipe.cxr_grpo.running.checks import compose

GIB = 2**30
PARAMETERS = 8767123696
CONFIG = {
    "model_type": "qwen3_vl",
    "tie_word_embeddings": False,
    "text_config": {
        "model_type": "qwen3_vl_text",
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
    },
    "vision_config": {"model_type": "qwen3_vl_vision", "depth": 27, "hidden_size": 1152, "out_hidden_size": 4096},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of 8 B, of which there is only its config.json."""
    folder = tmp_path_factory.mktemp("8B")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


@pytest.fixture(scope="module")
def skeletons(folder):
    """The model without weights, by LoRA rank; each is made once."""
    made = {}

    def skeleton(_, settings):
        rank = settings.lora_rank
        if rank not in made:
            made[rank] = original(folder, settings)
        return made[rank]

    original = memory.skeleton
    return skeleton


@pytest.fixture
def budget(folder, skeletons, monkeypatch):
    """The budget of a run with the model of 8 B, by its config and overrides."""
    monkeypatch.setattr(memory, "skeleton", skeletons)

    def make(kind, *overrides):
        config = compose(kind, overrides)
        settings = config.model if kind == "sft" else config.actor_rollout_ref.model
        return memory.Budget(kind, config, folder, settings)

    return make


def films(path, rows, *, max_pixels=672 * 672, side=2000, count=1):
    """A parquet file whose rows have so many films, of so many pixels at most."""
    image = {"image": "file:///film.png", "min_pixels": 1024, "max_pixels": max_pixels}
    row = {"images": [image] * count, "extra_info": {"width": side, "height": side}}
    pq.write_table(pa.Table.from_pylist([row] * rows), path)
    return [path]


def test_parameters_are_counted_from_the_config_alone(budget):
    assert str(budget("grpo", "profile=node_8x80g")) == "8.767 B parameters, 8.767 B of them trained"


def test_adapters_are_those_of_the_language_model(budget):
    adapters = budget("grpo", "profile=gpu_80g")
    # Queries and output; keys and values, a quarter as wide; the MLP's three.
    linear = 32 * (4 * 4096 + 2 * (4096 + 1024) + 3 * (4096 + 12288))
    assert adapters.trained == 36 * linear


@pytest.mark.parametrize(
    ("overrides", "gb"),
    [
        (["trainer.nnodes=1", "trainer.n_gpus_per_node=1"], 140.3),
        (["profile=paper_32xgh200"], 4.4),
        (["profile=node_8x80g"], 17.5),
        (["profile=node_8x80g", "actor_rollout_ref.actor.fsdp_config.fsdp_size=4"], 35.1),
    ],
)
def test_fp32_states_take_16_bytes_a_parameter_over_all_gpus(budget, overrides, gb):
    assert sum(budget("grpo", *overrides).states().values()) / 1e9 == pytest.approx(gb, abs=0.05)


def test_adapters_need_no_gradients_of_the_base(budget):
    weights, gradients, adam = budget("grpo", "profile=gpu_80g").states().values()
    assert weights / 1e9 == pytest.approx(35.4, abs=0.1) and adam == 2 * gradients < 1e9


@pytest.mark.parametrize(
    ("overrides", "gpu", "status"),
    [
        (["profile=node_8x80g"], 80, "pass"),
        (["profile=node_8x80g", "actor_rollout_ref.rollout.free_cache_engine=false"], 80, "warn"),
        (["profile=node_8x80g", "trainer.n_gpus_per_node=1"], 80, "fail"),
        (["profile=paper_32xgh200", "task=report"], 96, "pass"),
        (["profile=gpu_80g"], 80, "pass"),
        (["profile=gpu_80g"], 24, "fail"),
    ],
)
def test_states_must_fit_beside_what_vllm_keeps(budget, overrides, gpu, status):
    result = budget("grpo", *overrides).updates(gpu)
    assert result.status == status, result
    assert result.found.startswith(f"{gpu}.0 GiB, needs") and " B x 4 bytes / " in result.found


def test_sft_has_states_only(budget):
    assert budget("sft", "profile=node_8x80g").updates(80).status == "pass"
    assert budget("sft", "trainer.nnodes=1", "trainer.n_gpus_per_node=1").updates(80).status == "fail"


def test_vllm_has_its_weights_in_bf16_and_147_kb_a_token(budget):
    result = budget("grpo", "profile=node_8x80g", "task=grounding").rollouts(80)
    weights, answer = re.search(
        r"([\d.]+) weights \+ ([\d.]+) an answer \(8192 x 147456 bytes\)", result.found
    ).groups()
    assert float(weights) * GIB / 1e9 == pytest.approx(17.5, abs=0.05)
    assert float(answer) == pytest.approx(8192 * 147456 / GIB, abs=0.01)
    assert result.status == "pass" and "48.0 GiB" in result.found


def test_vllm_s_share_must_hold_the_longest_answer(budget):
    longest = "actor_rollout_ref.rollout.max_model_len=262144"  # 38.7 GB
    assert budget("grpo", "profile=node_8x80g", longest).rollouts(80).status == "fail"
    split = "actor_rollout_ref.rollout.tensor_model_parallel_size=2"
    assert budget("grpo", "profile=node_8x80g", longest, split).rollouts(80).status == "pass"
    assert budget("grpo", "profile=gpu_24g").rollouts(24).found.startswith("vLLM has 14.4 GiB, needs")


def test_a_trainer_that_stays_leaves_vllm_less(budget):
    greedy = "actor_rollout_ref.rollout.gpu_memory_utilization=0.9"  # 72 GiB; the trainer has 4.1 and 8.2
    away = [f"actor_rollout_ref.actor.fsdp_config.{part}_offload=true" for part in ("optimizer", "param")]
    for offloaded, need in ((0, "84.2"), (1, "76.1"), (2, "72.0")):
        found = budget("grpo", "profile=node_8x80g", greedy, *away[:offloaded]).rollouts(80)
        assert f"80.0 GiB, needs {need} GiB" in found.found
        assert found.status == ("pass" if offloaded else "fail")


def test_a_film_of_672_x_672_takes_10_mib(tmp_path):
    assert memory.film_bytes(films(tmp_path / "a", 3)) / 2**20 == pytest.approx(10.3, abs=0.05)
    small = films(tmp_path / "b", 3, side=256)
    assert memory.film_bytes(small) == 256 * 256 * 24
    assert memory.film_bytes([]) == 672 * 672 * 24  # there is no data yet
    assert memory.film_bytes([*small, *films(tmp_path / "c", 3, count=2)]) / 2**20 == pytest.approx(20.7, abs=0.05)


def part(result, name):
    return float(re.search(rf"([\d.]+) {re.escape(name)}", result.found)[1])


def test_films_of_a_step_or_a_validation_are_in_the_host_s_memory(budget, tmp_path):
    train, val = films(tmp_path / "train", 5), films(tmp_path / "val", 3314)
    one = ["profile=node_8x80g", "data.val_max_samples=-1"]
    assert part(budget("grpo", *one).host(train, val, 500), "films") == pytest.approx(41, abs=0.5)
    every = [*one, "data.train_batch_size=128", "data.val_batch_size=null"]
    assert part(budget("grpo", *every).host(train, val, 500), "films") == pytest.approx(33.5, abs=0.5)
    assert part(budget("grpo", "profile=paper_32xgh200").host(train, val, 500), "films") == pytest.approx(
        41 / 8, abs=0.1
    )


def test_models_that_wait_are_in_the_host_s_memory(budget, tmp_path):
    data = films(tmp_path / "train", 5), films(tmp_path / "val", 5)
    node = budget("grpo", "profile=node_8x80g", "actor_rollout_ref.ref.fsdp_config.model_dtype=fp32")
    assert part(node.host(*data, 500), "reference model") * GIB / 1e9 == pytest.approx(35.1, abs=0.1)
    adapters = budget("grpo", "profile=gpu_80g").host(*data, 500)
    assert part(adapters, "vLLM's weights") == pytest.approx(16.5, abs=0.1) and "reference" not in adapters.found
    assert part(adapters, "trainer's weights") == pytest.approx(33, abs=0.1)
    need = float(re.search(r"needs ([\d.]+) GiB", adapters.found)[1])
    statuses = {room: budget("grpo", "profile=gpu_80g").host(*data, room * need).status for room in (0.9, 1.05, 1.2)}
    assert statuses == {0.9: "fail", 1.05: "warn", 1.2: "pass"}
    assert budget("grpo", "profile=gpu_80g").host(*data, None).status == "skip"


def test_a_checkpoint_of_8b_takes_105_gb_and_there_are_four(budget, tmp_path):
    folder = f"trainer.default_local_dir={tmp_path}"
    need = 4 * PARAMETERS * 12 / GIB
    run = budget("grpo", "profile=node_8x80g", folder)
    assert need / 4 * GIB / 1e9 == pytest.approx(105, abs=0.5)
    assert run.disk(need + 0.1, [], False).status == "pass"
    full = run.disk(need - 0.1, [], False)
    assert full.status == "fail" and "4 x optimizer" in full.found
    for name in ("global_step_20", "global_step_10.damaged"):  # nothing removes the second
        there = tmp_path / name / "actor" / "model.pt"
        there.parent.mkdir(parents=True)
        with there.open("wb") as file:
            file.truncate(GIB)
    assert run.disk(need - 0.9, [], False).status == "pass"
    assert "-1.00 there already" in run.disk(need, [], False).found


def test_verl_forgets_the_checkpoints_of_an_earlier_attempt(tmp_path):
    def attempt(steps):
        manager = object.__new__(BaseCheckpointManager)
        manager.previous_saved_paths = []
        for step in steps:
            manager.ensure_checkpoint_capacity(2)
            (tmp_path / str(step)).mkdir()
            manager.register_checkpoint(str(tmp_path / str(step)), 2)

    attempt([20, 40, 60])
    attempt([80, 100, 120])
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == [40, 60, 100, 120]


def test_the_model_at_the_end_is_in_bf16_and_that_of_adapters_is_written_twice(budget):
    at_the_end = [
        part(budget("grpo", profile).disk(1000, [], True), "model at the end") * GIB / 1e9
        for profile in ("profile=node_8x80g", "profile=gpu_80g")
    ]
    assert at_the_end == pytest.approx([17.5, 35.4], abs=0.1)  # of adapters, 8.854 B twice


@pytest.mark.parametrize(
    ("overrides", "copies"),
    [
        (["trainer.max_ckpt_to_keep=null", "trainer.total_training_steps=2178"], 22),
        (
            [
                "trainer.max_ckpt_to_keep=null",
                "data.train_batch_size=8",
                "trainer.save_freq=200",
                "trainer.total_epochs=3",
            ],
            4,
        ),
        (["trainer.total_training_steps=2"], 1),
        (["trainer.total_training_steps=2178", "trainer.save_freq=-1"], 1),
        (["trainer.total_epochs=3", "trainer.save_freq=after_each_epoch"], 3),
    ],
)
def test_no_more_checkpoints_are_counted_than_are_saved(budget, tmp_path, overrides, copies):
    train = films(tmp_path / "train", 2000)
    sft = budget("sft", "profile=node_8x80g", "checkpoint.save_contents=[hf_model]", *overrides)
    found = part(sft.disk(1000, train, False), f"{copies} x hf_model")  # in fp32
    assert found == pytest.approx(copies * 4 * PARAMETERS / GIB, abs=0.1)
