import importlib
import sys
from typing import Annotated, Literal

import pytest

from reward_fns import registry
from reward_fns.errors import UsageError
from reward_fns.registry import Between, get, load_file, reward

pytestmark = pytest.mark.usefixtures("scratch_registry")


def test_built_ins_are_found():
    assert {"box_f1", "box_giou", "box_iou", "box_soft_f1", "gleu"} <= set(registry.names())


def test_signature_becomes_options_and_context():
    @reward("toy", task="grounding", range=(-1.0, 2.0), higher_is_better=False, version=3)
    def toy(prediction, reference, scale: float = 1.0, *, invalid_boxes=(), extra_info=None):
        """Do something.

        More about it.
        """
        return scale

    entry = get("toy")
    assert (entry.options, entry.context) == ({"scale": 1.0}, ("invalid_boxes", "extra_info"))
    assert (entry.floor, entry.summary, entry.version) == (2.0, "Do something.", 3)
    assert entry((), (), {"scale": 0.5}, {"invalid_boxes": (), "extra_info": {}}) == 0.5
    assert entry.where.startswith(__file__)
    assert toy((), ()) == 1.0  # the decorator hands the function back as it is


def test_what_runs_in_a_thread():
    async def awaited(prediction, reference):
        return 0.0

    def plain(prediction, reference):
        return 0.0

    for name, function, arguments, blocking in [
        ("a", plain, {}, False),
        ("b", plain, {"blocking": True}, True),
        ("c", plain, {"batched": True}, True),
        ("d", awaited, {"batched": True, "blocking": True}, False),
    ]:
        reward(name, task="report", range=(0, 1), **arguments)(function)
        assert get(name).blocking is blocking


def test_a_reward_for_any_task():
    @reward("toy", task="any", range=(0.0, 1.0))
    def toy(prediction, reference, output="", thinking=False, reward_router_address=None, reward_model_tokenizer=None):
        return 1.0

    assert get("toy").tasks == registry.TASKS and get("gleu").tasks == ("report",)
    assert get("toy").context == ("output", "thinking", "reward_router_address", "reward_model_tokenizer")


def test_name_with_a_value():
    entry = get("box_f1@0.75")
    assert (entry.name, entry.bound, "threshold" in entry.options) == ("box_f1@0.75", {"threshold": 0.75}, False)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("box_sft_f1", "did you mean 'box_soft_f1'"),
        ("box_f2@0.5", "did you mean 'box_f1'"),
        ("box_f1@half", "'half' is not a value for option threshold"),
        ("box_f1@", "'' is not a value"),
        ("box_f1@1.5", "from 0 to 1, got 1.5"),
        ("box_f1@nan", "from 0 to 1, got nan"),
        ("gleu@4", "takes no value"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(UsageError, match=message):
        get(name)


def test_two_rewards_of_one_name_are_refused_with_both_places():
    def define(line):
        reward("twice", task="report", range=(0, 1))(line)

    define(lambda prediction, reference: 0.0)
    with pytest.raises(UsageError, match=r"two rewards are called 'twice': .*test_registry.py:\d+ and .*py:\d+"):
        define(lambda prediction, reference: 1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "score"}, "can't be the name"),
        ({"name": "Box-F1"}, "can't be the name"),
        ({"task": "grouning"}, "did you mean 'grounding'"),
        ({"range": (0.0, float("inf"))}, "must be finite"),
        ({"range": (1.0, 0.0)}, "in order"),
        ({"parameter": "treshold"}, "did you mean 'threshold'"),
        ({"function": lambda prediction: 0.0}, "must take a prediction and a reference"),
        ({"function": lambda prediction, reference, limit: 0.0}, "option 'limit' needs a default"),
    ],
)
def test_bad_definitions(change, message):
    arguments = {"name": "toy", "task": "report", "range": (0.0, 1.0)} | change
    function = arguments.pop("function", lambda prediction, reference, threshold=0.5: 0.0)
    with pytest.raises(UsageError, match=message):
        reward(arguments.pop("name"), **arguments)(function)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limt": 1}, "unknown option of reward toy: 'limt'; did you mean 'limit'"),
        ({"mode": "fats"}, "unknown mode of reward toy 'fats'; did you mean 'fast'"),
        ({"mode": ["fast"]}, "unknown mode"),
        ({"limit": "3"}, "limit of reward toy must be a whole number from 1 to 9, got '3'"),
        ({"limit": True}, "must be a whole number"),
        ({"limit": 0}, "limit of reward toy must be a whole number from 1 to 9, got 0"),
        ({"share": 1.5}, "share of reward toy must be a finite number from 0 to 1"),
        ({"share": "half"}, "must be a finite number"),
        ({"weight": float("nan")}, "must be a finite number"),
    ],
)
def test_options_are_checked_by_their_annotations(options, message):
    @reward("toy", task="report", range=(0, 1))
    def toy(
        prediction: str,
        reference: str,
        limit: Annotated[int, Between(1, 9)] = 1,
        mode: Literal["fast", "slow"] = "fast",
        share: Annotated[float, Between(0, 1)] = 0.5,
        weight: float = 1.0,
        anything=None,
    ) -> float:
        return 0.0

    get("toy").check_options({"limit": 2, "mode": "slow", "share": 1, "weight": -3.0, "anything": object()})
    with pytest.raises(UsageError, match=message):
        get("toy").check_options(options)


def test_optional_and_list_options():
    @reward("toy", task="report", range=(0, 1))
    def toy(
        prediction: str,
        reference: str,
        limit: Annotated[int, Between(1, 9)] | None = None,
        words: list[str] | None = None,
        ends: tuple[int, ...] = (),
    ) -> float:
        return 0.0

    checked = get("toy").check_options({"limit": None, "words": ["a"], "ends": [1, 2]})
    assert checked == {"limit": None, "words": ["a"], "ends": (1, 2)}
    mistakes = [
        ({"limit": "3"}, "limit of reward toy: .*integer, got '3'"),
        ({"limit": 10}, "less than or equal to 9, got 10"),
        ({"words": "a"}, "words of reward toy: .*list, got 'a'"),
        ({"words": ["a", 1]}, r"words of reward toy\[1\]: .*string, got 1"),
        ({"ends": ["a"]}, "ends of reward toy"),
    ]
    for options, message in mistakes:
        with pytest.raises(UsageError, match=message):
            get("toy").check_options(options)


def test_a_signature_that_takes_everything():
    @reward("toy", task="report", range=(0, 1))
    def toy(prediction, reference, scale: float = 1.0, **context):
        return context

    entry = get("toy")
    assert (entry.options, entry.context) == ({"scale": 1.0}, registry.CONTEXT)
    assert entry("", "", {}, dict.fromkeys(registry.CONTEXT, 1)) == dict.fromkeys(registry.CONTEXT, 1)


def test_annotations_that_cannot_be_resolved_are_not_checked():
    @reward("toy", task="report", range=(0, 1))
    def toy(prediction, reference, limit: "Missing" = 1):  # type: ignore[name-defined]  # noqa: F821
        return 0.0

    get("toy").check_options({"limit": "anything"})


def test_a_users_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from reward_fns import reward\n"
        "@dataclass\nclass Length:\n    limit: int\n"
        "@reward('mine', task='report', range=(0.0, 1.0))\n"
        "def mine(prediction: str, reference: str) -> float:\n    return float(len(prediction) < Length(9).limit)\n"
    )
    load_file(path)
    assert get("mine")("short", "", {}, {}) == 1.0
    load_file.cache_clear()
    load_file(path)  # the same definition again is no clash


@pytest.mark.parametrize("content", ["def broken(:", "raise OSError('no weights')", "import no_such_package"])
def test_a_users_file_that_fails(tmp_path, content):
    path = tmp_path / "broken.py"
    path.write_text(content)
    with pytest.raises(UsageError, match=f"reward file {path} can't be loaded"):
        load_file(path)


def test_a_users_file_that_is_none(tmp_path):
    with pytest.raises(UsageError, match="no reward file"):
        load_file(tmp_path / "missing.py")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UsageError, match="is not a Python file"):
        load_file(tmp_path / "notes.txt")


@pytest.fixture
def entry_point(tmp_path, monkeypatch):
    """An installed package that announces a reward."""
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "toy_rewards-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-rewards\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[cxr_grpo.rewards]\ntoy = toy_rewards_module\n")
    importlib.invalidate_caches()
    registry._discover.cache_clear()
    yield tmp_path / "toy_rewards_module.py"
    registry._discover.cache_clear()
    sys.modules.pop("toy_rewards_module", None)


def test_an_entry_point_brings_rewards(entry_point):
    entry_point.write_text(
        "from reward_fns import reward\n"
        "@reward('from_package', task='report', range=(0, 1))\n"
        "def from_package(prediction, reference):\n    return 0.5\n"
    )
    assert "from_package" in registry.names()


def test_a_broken_entry_point_is_named(entry_point):
    entry_point.write_text("import no_such_package")
    with pytest.raises(UsageError, match=r"entry point toy = toy_rewards_module .*no_such_package"):
        registry.names()


def test_a_floor_of_its_own():
    reward("floored", task="report", range=(-5.0, 1.0), floor=-1.0)(lambda prediction, reference: 0.0)
    assert get("floored").floor == -1.0
    for floor in (1.5, float("nan")):
        with pytest.raises(UsageError, match="floor of 'toy'"):
            reward("toy", task="report", range=(0.0, 1.0), floor=floor)(lambda prediction, reference: 0.0)


@pytest.mark.parametrize(
    ("value", "message"), [(-1, "from 0 to 9, got -1"), (10, "from 0 to 9"), (1.5, "a whole number")]
)
def test_whole_numbers_have_bounds_too(value, message):
    @reward("toy", task="report", range=(0.0, 1.0))
    def toy(prediction, reference, count: Annotated[int, Between(0, 9)] = 3):
        return 0.0

    get("toy").check_options({"count": 9})
    with pytest.raises(UsageError, match=message):
        get("toy").check_options({"count": value})
