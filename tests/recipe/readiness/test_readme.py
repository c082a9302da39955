"""The memory that examples/paper/README.md names is what `preflight` prints, for the published models' shapes."""

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("verl")

from recipe.cxr_grpo.readiness import memory
from recipe.cxr_grpo.running.checks import compose

FOLDER = Path(__file__).parents[3] / "examples" / "paper"
README = (FOLDER / "README.md").read_text()
PROFILES = re.findall(
    r"^\| `(\w+)` \| (\w+) \| [^|]+ \| ([\d.]+) / ([\d.]+) \| ([\d.]+) \| (\d+) \|$", README, re.MULTILINE
)
RUNS = dict(re.findall(r"^\| `(\w+)` \|.*\| ([\d.]+) \| no \|$", README, re.MULTILINE))
SETTINGS = {line.split()[0]: line.split() for line in (FOLDER / "runs.tsv").read_text().splitlines()[1:]}


def shape(size, layers, inner, kv_heads, vision, *, heads=32, **more):
    """The config.json of a Qwen3-VL, as far as memory depends on it; ``vision`` is depth, width and inner width."""
    depth, width, inner_vision = vision
    text = {"hidden_size": size, "num_hidden_layers": layers, "intermediate_size": inner, "head_dim": 128}
    text |= {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": 151936}
    tower = {"depth": depth, "hidden_size": width, "intermediate_size": inner_vision, "out_hidden_size": size}
    kind = "qwen3_vl_moe" if "num_experts" in more else "qwen3_vl"
    return {"model_type": kind, "tie_word_embeddings": size < 4096 and kind == "qwen3_vl"} | {
        "text_config": text | more | {"model_type": f"{kind}_text"},
        "vision_config": tower | {"model_type": kind, "deepstack_visual_indexes": [5, 11, 17]},
    }


SHAPES = {
    "2B": shape(2048, 28, 6144, 8, (24, 1024, 4096), heads=16),
    "4B": shape(2560, 36, 9728, 8, (24, 1024, 4096)),
    "8B": shape(4096, 36, 12288, 8, (27, 1152, 4304)),
    "30B": shape(
        2048, 48, 6144, 4, (27, 1152, 4304), num_experts=128, num_experts_per_tok=8, moe_intermediate_size=768
    ),
}


def test_there_is_a_row_for_each_profile_with_a_gpu():
    assert {profile for profile, *_ in PROFILES} == memory.PROFILES.keys()


def need(result):
    """GiB, as printed."""
    assert result.status != "fail", result
    return re.search(r"needs ([\d.]+) GiB", result.found)[1]


@pytest.mark.parametrize(("profile", "model", "update", "rollout", "host", "disk"), PROFILES)
def test_the_memory_of_a_profile_is_what_preflight_prints(tmp_path, profile, model, update, rollout, host, disk):
    (tmp_path / "config.json").write_text(json.dumps(SHAPES[model]))
    family = "qwen3vl_moe" if model == "30B" else "qwen3vl"
    config = compose("grpo", [f"profile={profile}", f"family={family}", "task=report"])
    budget = memory.Budget("grpo", config, tmp_path, config.actor_rollout_ref.model)
    gpu = memory.PROFILES[profile]
    found = [need(budget.updates(gpu)), need(budget.rollouts(gpu)), need(budget.host([], [], None))]
    assert found == [update, rollout, host]
    assert round(float(need(budget.disk(1e4, [], True)))) == int(disk)


def test_the_memory_of_a_run_on_the_paper_s_gpus_is_what_preflight_prints(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps(SHAPES["8B"]))
    assert RUNS.keys() == SETTINGS.keys()
    model = memory.skeleton(tmp_path, compose("grpo", []).actor_rollout_ref.model)
    monkeypatch.setattr(memory, "skeleton", lambda *_: model)
    found = {}
    for run, (_, kind, _, _, *settings) in SETTINGS.items():
        budget = memory.Budget(kind, compose(kind, settings), tmp_path, None)
        looks = [budget.updates, budget.rollouts] if kind == "grpo" else [budget.updates]
        found[run] = max((need(look(96.0)) for look in looks), key=float)
    assert found == RUNS
