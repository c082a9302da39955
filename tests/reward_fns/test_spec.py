import math
import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from reward_fns.errors import UsageError
from reward_fns.settings import EngineOptions, FailureRules
from reward_fns.spec import of_rewards, preset_names, resolve

ITEM = {"name": "box_soft_f1", "weight": 0.5, "options": {"variant": "released"}}


def grounding(*items, **more):
    return {"grounding": list(items), **more}


def test_a_mapping_a_file_and_omegaconf_give_the_same(tmp_path):
    raw = grounding(ITEM, {"name": "box_f1@0.5", "weight": 0}, answer={"think_end": "first"})
    path = tmp_path / "spec.yaml"
    OmegaConf.save(OmegaConf.create(raw), path)
    specs = [resolve(raw), resolve(str(path)), resolve(path), resolve(OmegaConf.create(raw))]
    for spec in specs:
        first, second = spec.tasks["grounding"]
        assert (first.reward.name, first.weight, dict(first.options)) == ("box_soft_f1", 0.5, {"variant": "released"})
        assert (second.reward.bound, second.weight) == ({"threshold": 0.5}, 0.0)
        assert spec.think_end == "first"
    assert resolve(raw) is specs[0]  # read once


def test_defaults():
    spec = resolve(grounding({"name": "box_iou"}))
    assert spec.think_end == "last"
    assert spec.failures == FailureRules(retries=2, backoff=1.0, timeout=120.0, stop_after=20, concurrency=32)
    assert (spec.tasks["grounding"][0].weight, dict(spec.tasks["grounding"][0].options)) == (1.0, {})


def test_every_preset_resolves_and_cites_its_source():
    for name in preset_names():
        assert resolve(preset=name).reward_names
        text = (Path(resolve.__code__.co_filename).parent / "presets" / f"{name}.yaml").read_text()
        assert re.match(r"#.*(\n#.*)*arXiv", text)


def test_rewards_by_name_go_under_their_own_task():
    spec = of_rewards(["gleu", "box_f1@0.5", "box_iou"])
    assert {task: [c.reward.name for c in parts] for task, parts in spec.tasks.items()} == {
        "report": ["gleu"],
        "grounding": ["box_f1@0.5", "box_iou"],
    }
    with pytest.raises(UsageError, match="twice"):
        of_rewards(["gleu", "gleu"])


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"grouding": [ITEM]}, "unknown task or key 'grouding'; did you mean 'grounding'"),
        ({}, "has no task"),
        ({"answer": {}}, "has no task"),
        ([ITEM], "need a mapping"),
        ({"grounding": []}, "a non-empty list of rewards"),
        ({"grounding": "box_iou"}, "a non-empty list of rewards"),
        ({"grounding": {"name": "box_iou"}}, "a non-empty list"),
        (grounding("box_iou"), "need a mapping, got 'box_iou'"),
        (grounding({"weight": 1}), "every reward needs a name"),
        (grounding({"name": "box_sof_f1"}), "did you mean 'box_soft_f1'"),
        (grounding({"name": "box_iou", "wieght": 1}), "did you mean 'weight'"),
        (
            grounding({"name": "box_iou", "weight": math.nan}),
            "grounding, box_iou: weight must be a finite number, got nan",
        ),
        (grounding({"name": "box_iou", "weight": math.inf}), "must be a finite number"),
        (grounding({"name": "box_iou", "weight": "1"}), "must be a finite number"),
        (grounding({"name": "box_iou", "weight": True}), "must be a finite number"),
        (grounding({"name": "box_iou", "weight": None}), "must be a finite number"),
        (grounding({"name": "box_iou", "options": {"lables": "match"}}), "did you mean 'labels'"),
        (grounding({"name": "box_iou", "options": {"labels": "same"}}), "valid: ignore, match"),
        (grounding({"name": "box_iou", "options": ["labels"]}), "box_iou: options.* a valid dictionary, got"),
        (grounding({"name": "box_f1@0.5", "options": {"threshold": 0.7}}), "unknown option of reward box_f1@0.5"),
        (grounding(ITEM, ITEM), "'box_soft_f1' is there twice"),
        (grounding({"name": "gleu"}), "reward gleu is for task report"),
        (grounding(ITEM, answer={"think_end": "frist"}), "did you mean 'first'"),
        (grounding(ITEM, answer={"think": "first"}), "did you mean 'think_end'"),
        (grounding(ITEM, answer="first"), "need a mapping"),
        (grounding(ITEM, failures={"retry": 3}), "reward spec, failures: unknown key 'retry'; did you mean 'retries'"),
        (grounding(ITEM, failures={"retries": -1}), "reward spec, failures: retries must be a whole number from 0"),
        (grounding(ITEM, failures={"timeout": "1 min"}), "failures: timeout must be a finite number"),
        (grounding(ITEM, failures=3), "need a mapping"),
        (grounding(ITEM, engine={"were": "ray"}), "reward spec, engine: unknown key 'were'; did you mean 'where'"),
        (grounding(ITEM, engine={"where": "rya"}), "engine: unknown where 'rya'; did you mean 'ray'"),
        (grounding(ITEM, engine={"dtype": "fp16"}), "engine: unknown dtype 'fp16'; did you mean 'float16'"),
        (grounding(ITEM, engine={"where": "http"}), "engine: where: http needs the address"),
        (grounding(ITEM, engine={"where": "http", "address": "node7:8000"}), "as http://host:8000, got 'node7:8000'"),
        (
            grounding(ITEM, engine={"where": "http", "address": "http://a", "dtype": "float16"}),
            "dtype: set this where the deployment is started",
        ),
        (grounding(ITEM, engine={"address": "http://a"}), "address goes with where: http; where is inline"),
        (grounding(ITEM, engine={"replicas": 2}), "replicas: needs where: ray"),
        (grounding(ITEM, engine={"where": "ray", "replicas": 4, "max_replicas": 2}), "at least replicas, 4, got 2"),
        (grounding(ITEM, engine={"queue": 0}), "queue must be a whole number from 1 to 16777216"),
        (grounding(ITEM, engine={"wait_ms": math.nan}), "wait_ms must be a finite number from 0"),
        (grounding(ITEM, engine={"cache_dir": "/x"}), "engine: cache_dir was removed: results are kept in memory"),
        (grounding(ITEM, answer={"boxes": "strict"}), "answer: unknown boxes 'strict'"),
        (grounding(ITEM, engine={"compile": "yes"}), "compile must be true or false"),
        (grounding({"name": "mine", "path": "/no/such/file.py"}), "no reward file /no/such/file.py"),
    ],
)
def test_mistakes_are_refused_with_the_nearest_valid_name(raw, message):
    with pytest.raises(UsageError, match=message):
        resolve(raw)


def test_failure_rules_come_from_the_spec():
    spec = resolve(OmegaConf.create(grounding(ITEM, failures={"timeout": 5, "stop_after": 7})))
    assert spec.failures == FailureRules(timeout=5, stop_after=7)


def test_where_neural_rewards_are_computed_comes_from_the_spec():
    assert resolve(grounding(ITEM)).engine == EngineOptions()
    raw = grounding(ITEM, engine={"where": "ray", "replicas": 2, "gpus": 0.5, "dtype": "bfloat16"})
    assert resolve(OmegaConf.create(raw)).engine == EngineOptions("ray", replicas=2, gpus=0.5, dtype="bfloat16")


def test_a_spec_that_does_not_say_where_uses_the_deployment_of_the_environment(monkeypatch):
    monkeypatch.setenv("CXR_GRPO_SCORERS_URL", "http://node7:8000")
    shared = EngineOptions("http", address="http://node7:8000")
    assert resolve(grounding(ITEM, failures={"timeout": 6})).engine == shared
    assert resolve(grounding(ITEM, engine={"where": "inline"}, failures={"timeout": 6})).engine == EngineOptions()


def test_a_reward_for_any_task_is_listed_under_each_and_is_one_key():
    spec = of_rewards(["gleu", "overlong"])
    assert {task: len(parts) for task, parts in spec.tasks.items()} == {"report": 2, "grounding": 1}
    assert spec.reward_names == ["gleu", "overlong"]
    both = {"report": [{"name": "overlong", "options": {"limit": 5000}}], "grounding": [{"name": "overlong"}, ITEM]}
    assert resolve(both).reward_names == ["overlong", "box_soft_f1"]


def test_exactly_one_of_spec_and_preset():
    with pytest.raises(UsageError, match="exactly one"):
        resolve()
    with pytest.raises(UsageError, match="exactly one"):
        resolve(grounding(ITEM), "quickstart")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UsageError, match="no reward spec"):
        resolve(tmp_path / "missing.yaml")
    with pytest.raises(UsageError, match="give preset=quickstart"):
        resolve("quickstart")
    with pytest.raises(UsageError, match="Is a directory"):
        resolve(tmp_path)
    for number, content in enumerate([b"grounding: [", b"\xff\xfe\xff", b"!!python/object:os.system {}"]):
        path = tmp_path / f"{number}.yaml"
        path.write_bytes(content)
        with pytest.raises(UsageError, match="is not valid YAML"):
            resolve(path)


def test_an_unknown_preset():
    with pytest.raises(UsageError, match="did you mean 'paper_grounding'"):
        resolve(preset="paper_groundin")


def test_a_users_file_is_found_beside_the_spec(tmp_path, scratch_registry):
    (tmp_path / "mine.py").write_text(
        "from reward_fns import reward\n"
        "@reward('beside', task='report', range=(0, 1))\n"
        "def beside(prediction, reference):\n    return 1.0\n"
    )
    (tmp_path / "spec.yaml").write_text("report: [{name: beside, path: mine.py}]\n")
    assert resolve(tmp_path / "spec.yaml").reward_names == ["beside"]
