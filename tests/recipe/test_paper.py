"""examples/paper: what the script refuses, the commands that it makes, and two real steps of the recipes on a CPU."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("verl")

import torch.distributed.tensor  # what shards are made of
from safetensors.torch import load_file

from data_prep.cli import main as data_prep
from recipe.cxr_grpo.demo import architecture
from recipe.cxr_grpo.demo.pretraining import MODEL
from recipe.cxr_grpo.results.metrics import read_metrics
from recipe.cxr_grpo.running import checks, config_checks
from reward_fns.spec import resolve

PAPER = Path(__file__).parents[2] / "examples" / "paper"
TABLE = [line.split() for line in (PAPER / "runs.tsv").read_text().splitlines() if not line.startswith("#")]
RUNS = {name: rest for name, *rest in TABLE}
# Instead of the real one: no flash-attn unless FLASH says so, a folder of weights, and every command is shown.
PYTHON = """#!/bin/sh
case "$*" in
  *find_spec*) exit "${FLASH:-1}" ;;
  *snapshot_download*) echo "$HUB" ;;
  *) printf '%s\\n' "$@" ;;
esac
"""


@pytest.fixture
def place(tmp_path):
    """A folder with data for every run, a whole model and an environment with a python that only shows commands."""
    for folder in {folder for run in RUNS.values() for folder in run[2].split("+")}:
        (tmp_path / "data" / folder).mkdir(parents=True)
        for name in ("train", "val", "sft_train", "sft_val"):
            (tmp_path / "data" / folder / f"{name}.parquet").touch()
    whole_model(tmp_path / "model")
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(PYTHON)
    python.chmod(0o755)
    return tmp_path


def whole_model(folder, kind="qwen3_vl"):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"architectures": [], "model_type": kind}))
    (folder / "model.safetensors").touch()


def script(*arguments, **env):
    clean = {
        name: value for name, value in os.environ.items() if name not in ("VERL_PLATFORM", "DATA", "MODEL", "START")
    }
    command = ["bash", str(PAPER / "run.sh"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=clean | {k: str(v) for k, v in env.items()})


@pytest.fixture
def run(place):
    """Run the script in `place`; returns the words of the command that it came to."""

    def command(*arguments, **env):
        given = {"DATA": place / "data", "RUNS": place / "runs", "VENV": place / "venv", "HUB": place / "model"}
        done = script(*arguments, **(given | env))
        assert done.returncode == 0, done.stderr
        return shlex.split(done.stdout) if "--dry-run" in arguments else done.stdout.splitlines()

    return command


def settings(words):
    return dict(word.lstrip("+").split("=", 1) for word in words if "=" in word)


@pytest.mark.parametrize("name", RUNS)
def test_a_dry_run_shows_a_command_whose_config_passes_the_checks(name):
    done = script(name, "--dry-run", "trainer.save_freq=7", DATA="data", VENV="/nowhere")
    assert done.returncode == 0, done.stderr
    python, flag, module, kind, out, _, config_flag, config_name, *words = shlex.split(done.stdout)
    assert (python, flag, module) == ("/nowhere/bin/python", "-m", "recipe.cxr_grpo.launch")
    assert (kind, out, config_flag, config_name) == (RUNS[name][0], "--out", "--config-name", RUNS[name][0])
    config = checks.compose(config_name, words)
    config_checks.check_config(kind, config)
    assert config.trainer.save_freq == 7 and config.trainer.experiment_name == name
    if kind == "grpo":
        spec = resolve(preset=config.reward.custom_reward_function.reward_kwargs.preset)
        tasks = {folder.split("_")[0] for folder in RUNS[name][2].split("+")}
        assert set(spec.tasks) == tasks and config.data.max_response_length >= 1024


def test_the_readme_has_every_run_once():
    table = (PAPER / "README.md").read_text().partition("## Runs")[2].partition("##")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE) == list(RUNS)


def test_the_readme_says_how_to_make_the_data_of_every_run():
    data = (PAPER / "README.md").read_text().partition("## Data")[2]
    for folder in {folder for run in RUNS.values() for folder in run[2].split("+")}:
        task, _, option = folder.partition("_")
        assert f"| `{folder}`" in data or (f"| `{task}_" in data and f"`_{option}`" in data), folder


def test_help_lists_the_runs():
    done = script("--help")
    assert done.returncode == 0 and "usage: DATA=FOLDER" in done.stdout
    assert all(name in done.stdout for name in RUNS)


@pytest.mark.parametrize(
    ("arguments", "env", "message"),
    [
        ([], {}, r"which run\? One of sft cold_start"),
        (["radvlm"], {}, "no run radvlm in .*there are sft cold_start"),
        (["sft", "mixed"], {}, "one run at a time"),
        (["sft", "--steps"], {}, "unknown option --steps"),
        (["sft", "--download"], {}, "--download goes with --preflight"),
        (["sft"], {"DATA": ""}, "DATA is not set: export the folder in which the folder sft lies"),
        (["sft"], {"PROFILE": "gpu_40g"}, "no PROFILE=gpu_40g"),
        (["sft"], {"MODEL": "7B"}, "7B is not a model"),
        (["sft"], {"MODEL": "8B", "PROFILE": "gpu_24g"}, "MODEL=8B does not fit PROFILE=gpu_24g"),
        (
            ["qwen3vl_thinking_report"],
            {"MODEL": "qwen2.5-7B"},
            "run .* starts from a thinking model, and there is none",
        ),
        (["sft"], {"VENV": "/nowhere"}, "no virtual environment /nowhere: run bash examples/install.sh"),
        (["sft"], {"HUB": "/nowhere"}, "no weights of Qwen/Qwen3-VL-8B-Instruct here: run .*hf download"),
        (["radvlm_report"], {}, "no finished run sft in .*: run bash examples/paper/run.sh sft, to its end"),
        (["sft"], {"DATA": "/nowhere"}, "no sft_train.parquet in /nowhere/sft, nor one below: run sft needs it"),
        (["unirg_stage2"], {"START": "{place}/model"}, "CXR_GRPO_JUDGE_URL is not set: .*examples/judge/server.sh"),
    ],
)
def test_what_is_missing_is_named_with_its_remedy(place, arguments, env, message):
    given = {"DATA": place / "data", "RUNS": place / "runs", "VENV": place / "venv", "HUB": place / "model"}
    done = script(*arguments, **(given | {key: value.format(place=place) for key, value in env.items()}))
    assert done.returncode == 2
    assert re.search(f"^run.sh: {message}", done.stderr), done.stderr


@pytest.mark.parametrize("defect", ["lora_adapter", "no_shard", "no_weights"])
def test_half_a_model_is_refused(place, defect):
    start = place / "model"
    if defect == "lora_adapter":
        (start / defect).mkdir()
    elif defect == "no_shard":
        index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
        (start / "model.safetensors.index.json").write_text(json.dumps(index))
    else:
        (start / "model.safetensors").unlink()
    done = script("radvlm_report", DATA=place / "data", RUNS=place / "runs", VENV=place / "venv", START=start)
    assert done.returncode == 2
    assert f"{start} is not a complete model" in done.stderr


def test_a_run_starts_from_the_model_of_the_one_before(place, run):
    for name in ("sft", "unirg_stage1"):
        whole_model(place / f"runs/{name}/model")
    assert settings(run("radvlm_report"))["actor_rollout_ref.model.path"] == str(place / "runs/sft/model")
    second = settings(run("unirg_stage2", CXR_GRPO_JUDGE_URL="http://127.0.0.1:1/v1"))
    assert second["actor_rollout_ref.model.path"] == str(place / "runs/unirg_stage1/model")


@pytest.mark.parametrize(
    ("model", "profile", "path", "family"),
    [
        ("", "gpu_80g", "Qwen/Qwen3-VL-8B-Instruct", "qwen3vl"),
        ("", "gpu_24g", "Qwen/Qwen3-VL-2B-Instruct", "qwen3vl"),
        ("4B", "gpu_24g", "Qwen/Qwen3-VL-4B-Instruct", "qwen3vl"),
        ("30B", "paper_32xgh200", "Qwen/Qwen3-VL-30B-A3B-Instruct", "qwen3vl_moe"),
        ("qwen2.5-7B", "node_8x80g", "Qwen/Qwen2.5-VL-7B-Instruct", "qwen25vl"),
    ],
)
def test_one_switch_chooses_the_model(run, model, profile, path, family):
    chosen = settings(run("qwen3vl_report", MODEL=model, PROFILE=profile))
    assert (chosen["actor_rollout_ref.model.path"], chosen["family"]) == (path, family)


@pytest.mark.parametrize(
    ("kind", "family"), [("qwen3_vl", "qwen3vl"), ("qwen3_vl_moe", "qwen3vl_moe"), ("qwen2_5_vl", "qwen25vl")]
)
def test_the_kind_of_a_model_of_one_s_own_is_read_from_it(place, run, kind, family):
    whole_model(place / "own", kind)
    for variable in ("MODEL", "START"):
        chosen = settings(run("qwen3vl_report", **{variable: place / "own"}))
        assert (chosen["actor_rollout_ref.model.path"], chosen["family"]) == (str(place / "own"), family)


def test_a_thinking_run_starts_from_the_thinking_model(run):
    chosen = settings(run("qwen3vl_thinking_grounding"))
    assert chosen["actor_rollout_ref.model.path"] == "Qwen/Qwen3-VL-8B-Thinking"


def test_shards_and_folders_below_are_found_and_controls_are_not(place, run):
    data = place / "data" / "grounding_hint"
    (data / "train.parquet").unlink()
    (data / "vindr_cxr" / "films").mkdir(parents=True)
    for name in ("train-00000.parquet", "train-00001.parquet", "val-swapped.parquet", "films/val-swapped.parquet"):
        (data / "vindr_cxr" / name).touch()
    found = settings(run("qwen3vl_grounding"))
    shards = [f"{data}/vindr_cxr/train-0000{number}.parquet" for number in range(2)]
    assert found["data.train_files"] == f"[{','.join(shards)}]"
    assert found["data.val_files"] == f"[{data}/val.parquet]"


def test_instructions_without_a_validation_split_are_trained_on(place, run):
    (place / "data" / "sft" / "sft_val.parquet").unlink()
    assert settings(run("sft"))["data.val_files"] == "[]"


def test_without_flash_attn_the_run_says_what_it_uses(run):
    key = "actor_rollout_ref.model."
    assert settings(run("qwen3vl_report"))[f"{key}override_config.attn_implementation"] == "sdpa"
    assert f"{key}use_remove_padding" not in settings(run("qwen3vl_report"))
    assert settings(run("qwen3vl_report", MODEL="qwen2.5-3B"))[f"{key}use_remove_padding"] == "false"
    assert "sdpa" not in " ".join(run("qwen3vl_report", FLASH="0") + run("qwen3vl_report", PROFILE="cpu"))


def test_the_vision_tower_can_stay_as_it_is(run):
    module = "recipe.cxr_grpo.plugin.frozen_vision"
    assert settings(run("qwen3vl_report", FREEZE_VISION="yes"))["actor_rollout_ref.model.external_lib"] == module
    assert settings(run("sft", FREEZE_VISION="yes"))["model.external_lib"] == module


def test_preflight_gets_the_words_of_launch_and_what_it_looks_for_may_be_missing(place, run):
    launch = run("unirg_stage2", "trainer.save_freq=7", START=place / "model", CXR_GRPO_JUDGE_URL="http://judge/v1")
    look = run("unirg_stage2", "trainer.save_freq=7", "--preflight", START=place / "model")
    assert look == [word.replace(".launch", ".preflight") for word in launch]
    data = place / "data" / "report_hint"
    (data / "train.parquet").unlink()
    look = run("qwen3vl_report", "--preflight", "--download", HUB="/nowhere")
    assert "--download" in look and settings(look)["data.train_files"] == f"[{data}/train.parquet]"


def test_the_cpu_profile_chooses_verl_s_platform(run):
    assert run("sft", "--dry-run", PROFILE="cpu")[0] == "VERL_PLATFORM=cpu"


# Two real steps of recipes, on the CPU with demo films. Without scorers' published weights, tiny random ones stand in.
# Rollouts by vLLM, of which only one run at a time is possible, are those of the run that trains adapters.
HF = ["actor_rollout_ref.rollout.name=hf"]
LORA = [
    "+part=lora_grpo", *(f"actor_rollout_ref.actor.fsdp_config.{it}_offload=false" for it in ("param", "optimizer")),
    *(f"actor_rollout_ref.rollout.{it}" for it in ("name=vllm", "free_cache_engine=false", "calculate_log_probs=true")),
    "actor_rollout_ref.actor.optim.lr=1e-2",
]  # fmt: skip
PRESET = "reward.custom_reward_function.reward_kwargs.preset"
RECIPES = {"radvlm_thinking_grounding": ["actor_rollout_ref.actor.optim.lr=1e-3"]}  # its tower is frozen
if os.environ.get("CXR_GRPO_ALL_RECIPES"):  # a minute each
    RECIPES |= {"mixed": [f"{PRESET}=quickstart"], "dr_grpo": [f"{PRESET}=paper_ablation_gleu"]}
    REST = ("radvlm_grounding", "radvlm_thinking_report", "unirg_stage1", "unirg_stage2", "editgrpo")
    RECIPES |= {name: [] for name in (*REST, *(f"ablation_{name}" for name in ("bertscore", "radgraph", "gleu")))}
JUDGED = {
    "is_report": True, "explanation": "One error.", "significant_errors": dict.fromkeys("abcdef", 0) | {"c": 1},
    "insignificant_errors": dict.fromkeys("abcdef", 0), "matched_findings": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Demo films as the data of every run, by task."""
    root = tmp_path_factory.mktemp("paper")
    side = str(architecture.IMAGE_SIDE**2)
    for name, options in {"plain": [], "thinking": ["--thinking"]}.items():
        drawn = ["demo", "--out", str(root / name), "--patients", "16", "--shares", "0.8,0.2,0", "--max-pixels", side]
        assert data_prep([*drawn, *options]) == 0
        for task in ("report", "grounding"):
            folder = root / "data" / (task if name == "plain" else f"{task}_thinking")
            folder.mkdir(parents=True)
            for split in ("train", "val"):
                rows = pq.read_table(root / name / f"{split}.parquet")
                wanted = pa.array([info["task"] == task for info in rows["extra_info"].to_pylist()])
                pq.write_table(rows.filter(wanted), folder / f"{split}.parquet")
    for split in ("sft_train", "sft_val"):
        rows = pq.read_table(root / "plain" / f"{split}.parquet")
        traced = rows.to_pylist()
        for row in traced:
            question, answer = row["messages"]
            question["content"] += " /think"
            answer["content"] = f"<think>\nI look.\n</think>\n\n{answer['content']}"
        for folder, table in {"sft": rows, "cold_start": pa.Table.from_pylist(traced, schema=rows.schema)}.items():
            (root / "data" / folder).mkdir(exist_ok=True)
            pq.write_table(table, root / "data" / folder / f"{split}.parquet")
    return root


def train(films, name, *overrides, **env):
    given = {"DATA": films / "data", "RUNS": films / "runs", "VENV": sys.prefix, "PROFILE": "cpu", "MODEL": MODEL} | env
    done = script(name, "trainer.total_training_steps=2", *overrides, **given)
    assert done.returncode == 0, done.stderr
    return given["RUNS"] / name


def tower_and_rest(before, after):
    """Whether the vision tower and whether anything else differs between two folders of models."""
    first, second = (load_file(folder / "model.safetensors") for folder in (before, after))
    assert first.keys() == second.keys()
    differ = {name for name in first if not first[name].equal(second[name])}
    return [any((".visual." in name) is tower for name in differ) for tower in (True, False)]


@pytest.mark.e2e
def test_sft_in_two_processes_and_a_cold_start_of_it_with_a_frozen_tower(films):
    sft = train(films, "sft", "trainer.n_gpus_per_node=2")
    model = load_file(sft / "model" / "model.safetensors")
    paths = [sft / "checkpoints" / "global_step_2" / f"model_world_size_2_rank_{rank}.pt" for rank in (0, 1)]
    shards = [torch.load(path, weights_only=True) for path in paths]
    trained = {name: torch.cat([shard[name].to_local() for shard in shards]) for name in model}
    assert all(trained[name].bfloat16().equal(model[name]) for name in model)
    assert tower_and_rest(MODEL, sft / "model") == [True, True]
    cold = train(films, "cold_start", FREEZE_VISION="yes")
    assert set(read_metrics(cold, "sft")) == {1, 2}
    assert tower_and_rest(sft / "model", cold / "model") == [False, True]


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("name", "rollouts"),
    [
        pytest.param("radvlm_report", LORA, marks=pytest.mark.vllm, id="lora"),
        *(pytest.param(name, HF, id=name) for name in RECIPES),
    ],
)
def test_a_recipe_takes_two_steps(films, text_models_in_cache, judge_server, tmp_path, name, rollouts):
    places = {"HF_HUB_CACHE": tmp_path / "hub", "HF_HUB_OFFLINE": "1", "XDG_CACHE_HOME": tmp_path / "cache"}
    judge_server.answer = lambda prompt: json.dumps(JUDGED)
    places |= {"CXR_GRPO_JUDGE_URL": judge_server.url, "CXR_GRPO_JUDGE_MODEL": "m"}
    frozen = {"FREEZE_VISION": "yes"} if name == "radvlm_thinking_grounding" else {}
    out = train(films, name, *rollouts, *RECIPES.get(name, []), START=MODEL, **places, **frozen)
    logged = read_metrics(out, "grpo")
    for step in (1, 2):
        rows = [json.loads(line) for line in (out / "rollouts" / f"{step}.jsonl").open()]
        assert len(rows) == 16 and logged[step]["reward/failed_rollouts"] == 0
        assert {row["task"] for row in rows} <= {folder.split("_")[0] for folder in RUNS[name][2].split("+")}
        assert name != "unirg_stage2" or {row["green"] for row in rows} == {0.5}
    assert (out / "checkpoints" / "latest_checkpointed_iteration.txt").read_text() == "2"
    if rollouts is LORA:  # the answers of step 2 come from the trained model, which is far from the base
        assert logged[2]["actor/kl_loss"] > 0.1 and logged[2]["training/rollout_probs_diff_mean"] < 1e-3
    if frozen or rollouts is LORA:
        assert tower_and_rest(MODEL, out / "model") == [False, True]
