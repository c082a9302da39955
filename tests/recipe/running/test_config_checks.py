"""Every recipe on every profile, composed and walked; and each check, seen to fail."""

import ast
import copy
import fnmatch
import functools
import importlib.util
import inspect
import itertools
import re
from pathlib import Path

import pytest

pytest.importorskip("verl")

import hydra
import ray
from omegaconf import OmegaConf

from recipe.cxr_grpo.running import config_checks
from recipe.cxr_grpo.running.config_checks import DEAD
from recipe.cxr_grpo.running.start import CONFIG_MODULE
from reward_fns.errors import UsageError
from reward_fns.spec import resolve

PROFILES = ("cpu", "gpu_24g", "gpu_80g", "node_8x80g", "paper_32xgh200")
TASKS = ("report", "report_thinking", "grounding", "grounding_thinking", "mixed")
METHODS = ("dr_grpo", "editgrpo", "unirg_stage1", "unirg_stage2")
RECIPES = [
    *(("grpo", [f"task={task}"]) for task in TASKS),
    *(("grpo", [f"method={method}"]) for method in METHODS),
    *(("sft", [f"stage={stage}"]) for stage in ("radvlm", "cold_start")),
]
ON_PROFILES = [(kind, [*words, f"profile={name}"]) for (kind, words), name in itertools.product(RECIPES, PROFILES)]
FAMILIES = [("grpo", ["family=qwen25vl"]), *(("grpo", ["family=qwen3vl_moe", f"profile={p}"]) for p in PROFILES[3:])]
EVERY = [*ON_PROFILES, *FAMILIES, ("grpo", []), ("sft", [])]
FREE = {"ray_kwargs.ray_init.": ray.init, "reward.custom_reward_function.reward_kwargs.": resolve}
"""Mappings that are passed on as arguments."""


@pytest.fixture(scope="module")
def compose():
    """A config by name, with words of a command line, each made once, and other changes, which take no time."""
    with hydra.initialize_config_module(CONFIG_MODULE, version_base=None):
        made = functools.cache(lambda name, words: hydra.compose(name, overrides=list(words)))

        def composed(name, words=(), changes=()):
            config = copy.deepcopy(made(name, tuple(words)))
            for key, value in dict(changes).items():
                OmegaConf.update(config, key, value, force_add=True)
            return config

        yield composed


@pytest.fixture(scope="module", autouse=True)
def verl_s_own():
    """Read before Hydra is at work on ours."""
    for kind in config_checks.STOCK:
        config_checks.stock(kind)


def folder(package):
    return Path(importlib.util.find_spec(package).origin).parent


def names_read(elsewhere, *places):
    """Names that Python files read as attributes or hold in texts; not those of paths that match `elsewhere`."""
    names = set()
    for path in itertools.chain(*(place.rglob("*.py") if place.is_dir() else [place] for place in places)):
        if elsewhere.search(str(path)):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                names.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                names.update(node.value.split("."))
    return names


# What V1 with FSDP and vLLM does not run, and the declarations of settings, which read nothing.
ELSEWHERE = (
    r"experimental/(fully_async|one_step|separation|teacher_loop)|main_ppo_v0|trainer/ppo/ray_trainer\.py|megatron|mcore|"
    r"torchtitan|veomni|automodel|mindspeed|sglang|trtllm|npu|workers/config/(?!model\.py|optimizer\.py)|trainer/config/|"
    r"workers/reward_manager/|model_merger|main_eval|main_generation|_pd_replica|distill|hf_rollout|naive_rollout|"
)


@pytest.fixture(scope="module")
def live():
    """Names that each trainer reads somewhere."""
    verl, queue = folder("verl"), folder("transfer_queue")
    vllm = folder("vllm") / "engine" / "arg_utils.py" if importlib.util.find_spec("vllm") else queue
    own = Path(config_checks.__file__).parent  # `launch` reads the number of GPUs for SFT
    return {
        "grpo": names_read(re.compile(ELSEWHERE + r"sft"), verl, queue) | declared(vllm),
        "sft": names_read(re.compile(ELSEWHERE + r"sft_trainer_ray|trainer/ppo|experimental/"), verl, own / "start.py"),
    }


def declared(path):
    """Annotated names in the classes of a file: the arguments that vLLM's engine takes."""
    nodes = ast.walk(ast.parse(path.read_text())) if path.is_file() else ()
    return {node.target.id for node in nodes if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}


def unread(kind, config, live):
    """Settings of a config, beyond verl's own, that no code reads by that name."""
    keys = []
    for key in config_checks.changed(kind, config):
        name = key.rpartition(".")[2]
        taker = next((function for prefix, function in FREE.items() if key.startswith(prefix)), None)
        if name not in (live[kind] if taker is None else inspect.signature(taker).parameters):
            keys.append(key)
    return keys


@pytest.mark.parametrize(("kind", "words"), EVERY, ids=lambda part: part if isinstance(part, str) else " ".join(part))
def test_a_recipe_composes_and_every_setting_of_it_counts(compose, live, kind, words):
    config = compose(kind, words)
    config_checks.check_config(kind, config)
    assert unread(kind, config, live) == []


@pytest.mark.parametrize("name", ["quickstart_grpo", "quickstart_sft"])
def test_the_quickstart_s_configs_too(compose, live, name):
    kind = name.partition("_")[2]
    config = compose(name)
    config_checks.check_config(kind, config)
    assert unread(kind, config, live) == []


@pytest.mark.parametrize(
    "key",
    [
        "trainer.save_frequency",
        "actor_rollout_ref.rollout.engine_kwargs.vllm.disable_mm_preprocessor_cache",
        "ray_kwargs.ray_init.cpus",
        "reward.custom_reward_function.reward_kwargs.reset",
    ],
)
def test_a_setting_that_nothing_reads_is_noticed(compose, live, key):
    assert unread("grpo", compose("grpo", changes={key: 3}), live) == [key]


# For each dead setting: a value that is not verl's own.
EXAMPLES = {int: 7, float: 0.7, str: "other", type(None): "other", list: ["other"]}


@pytest.mark.parametrize(("kind", "pattern"), [(kind, key) for kind, keys in DEAD.items() for key in keys])
def test_every_dead_setting_is_one_of_verl_s_and_is_refused_with_advice(compose, kind, pattern):
    found = fnmatch.filter(config_checks.stock(kind), pattern)
    assert found
    own = config_checks.stock(kind)[found[0]]
    value = not own if isinstance(own, bool) else EXAMPLES[type(own)]
    with pytest.raises(UsageError, match=rf"{re.escape(found[0])}: .*never reads it; .+"):
        config_checks.check_keys(kind, compose(kind, changes={found[0]: value}))


@pytest.mark.parametrize(
    "key",
    [
        "freeze_vision_tower",
        "esi_redundant_time",
        "over_sample_rate",
        "multi_stage_wake_up",
        "freeze_vision_projection",
    ],
)
def test_the_list_of_dead_settings_agrees_with_verl_s_source(live, key):
    assert key not in live["grpo"]


def test_a_dead_setting_with_verl_s_own_value_does_no_harm(compose):
    config_checks.check_keys("grpo", compose("grpo", changes={"trainer.balance_batch": True}))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("rollout.max_model_len", None, "max_model_len is null: .* = 4096"),
        ("rollout.max_model_len", 4095, "max_model_len=4095 is less than .* = 4096"),
        ("actor.ppo_mini_batch_size", 100, "512 is not a multiple of ppo_mini_batch_size=100"),
        ("actor.ppo_micro_batch_size_per_gpu", 5, "per_gpu=5 does not divide the 32 answers of each GPU"),
        ("ref.log_prob_micro_batch_size_per_gpu", 12, "ref.log_prob_.*=12 does not divide the 128 answers"),
        ("rollout.log_prob_micro_batch_size_per_gpu", 12, "rollout.log_prob_.*=12 does not divide the 128 answers"),
        ("rollout.tensor_model_parallel_size", 3, "tensor_model_parallel_size=3 does not divide trainer.nnodes=8 x"),
        ("actor.fsdp_config.ulysses_sequence_parallel_size", 5, "ulysses_sequence_parallel_size=5 does not divide"),
    ],
)
def test_what_grpo_would_fail_on_is_refused(compose, key, value, message):
    with pytest.raises(UsageError, match=message):
        config_checks.check_config("grpo", compose("grpo", changes={f"actor_rollout_ref.{key}": value}))


LOG_PROB = "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu"
SAVED = "actor_rollout_ref.actor.checkpoint.save_contents"


@pytest.mark.parametrize(
    ("profile", "changes", "message"),
    [
        ("paper_32xgh200", {"trainer.n_gpus_per_node": 3}, "=128 prompts .* can't be divided among .*nnodes=8 x"),
        ("gpu_80g", {LOG_PROB: 5}, "rollout.log_prob_micro_batch_size_per_gpu=5 does not divide the 512 answers"),
        ("gpu_80g", {LOG_PROB: 5, "algorithm.rollout_correction.bypass_mode": True}, "rollout.log_prob_.*=5 does not"),
        (
            "gpu_24g",
            {"actor_rollout_ref.rollout.name": "hf"},
            "LoRA only the adapters, which transformers.generate has no place",
        ),
        ("gpu_24g", {SAVED: ["model", "hf_model"]}, "save_contents has hf_model, which verl 0.9.1"),
        ("node_8x80g", {SAVED: ["hf_model"], "actor_rollout_ref.model.lora_rank": 8}, "save_contents has hf_model"),
        ("node_8x80g", {SAVED: ["hf_model"], "actor_rollout_ref.model.lora.rank": 8}, "save_contents has hf_model"),
    ],
)
def test_what_grpo_would_fail_on_with_a_profile_is_refused(compose, profile, changes, message):
    with pytest.raises(UsageError, match=message):
        config_checks.check_config("grpo", compose("grpo", ["task=report", f"profile={profile}"], changes))


@pytest.mark.parametrize(
    ("profile", "changes", "message"),
    [
        ("paper_32xgh200", {"data.train_batch_size": 100}, "train_batch_size=100 can't be divided among .*nnodes=8"),
        ("paper_32xgh200", {"engine.ulysses_sequence_parallel_size": 3}, "ulysses_sequence_parallel_size=3"),
        (
            "paper_32xgh200",
            {"data.use_dynamic_bsz": False, "data.micro_batch_size_per_gpu": 3},
            "16 rows are not a multiple of .*=3",
        ),
        ("paper_32xgh200", {"data.max_length": 20000}, "max_token_len_per_gpu=16384 has no room"),
        ("gpu_24g", {"checkpoint.save_contents": ["hf_model"]}, "checkpoint.save_contents has hf_model"),
        ("gpu_80g", {"trainer.test_freq": 100}, "test_freq=100 without data.val_files"),
    ],
)
def test_what_sft_would_fail_on_is_refused(compose, profile, changes, message):
    with pytest.raises(UsageError, match=message):
        config_checks.check_config("sft", compose("sft", ["stage=radvlm", f"profile={profile}"], changes))


def test_sizes_that_a_run_does_not_use_are_not_checked(compose):
    size = "actor_rollout_ref.{}_micro_batch_size_per_gpu".format
    for changes in (
        {size("ref.log_prob"): 12, "actor_rollout_ref.actor.use_kl_loss": False},
        {size("rollout.log_prob"): 12, "algorithm.rollout_correction.bypass_mode": True},
        {size("actor.ppo"): 5, "actor_rollout_ref.actor.use_dynamic_bsz": True},
    ):
        config_checks.check_config("grpo", compose("grpo", changes=changes))
