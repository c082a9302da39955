"""Reward specs: which rewards a task has, with which weights and options."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from reward_fns.answers import Nothing, Reader, ThinkEnd
from reward_fns.errors import UsageError, unknown
from reward_fns.registry import TASKS, Reward, get, load_file
from reward_fns.settings import REMOVED, Checked, EngineOptions, FailureRules, from_mapping

SCORERS_URL = "CXR_GRPO_SCORERS_URL"
"""Environment variable: address of a deployment of scorers, for specs that don't say where they compute."""
_PRESETS = Path(__file__).parent / "presets"


@dataclass(frozen=True)
class Component:
    """A reward of a spec with its weight (0: it is logged only) and the options that differ from the defaults."""

    reward: Reward
    weight: float
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RewardSpec:
    """The rewards of every task, and how a run finds answers, treats failing scorers and computes neural rewards.

    `reward_fns.answers` says what think_end, boxes and nothing mean.
    """

    tasks: Mapping[str, tuple[Component, ...]]
    think_end: ThinkEnd = "last"
    failures: FailureRules = field(default_factory=FailureRules)
    engine: EngineOptions = field(default_factory=EngineOptions)
    boxes: Reader = "tolerant"
    nothing: Nothing = "stated"

    @property
    def reward_names(self) -> list[str]:
        """Names of all rewards, task by task, each once: the same keys for every sample."""
        return list(dict.fromkeys(part.reward.name for parts in self.tasks.values() for part in parts))


def preset_names() -> list[str]:
    """Names of the specs that come with the package.

    >>> [name for name in preset_names() if name.startswith("paper_ablation")]
    ['paper_ablation_bertscore', 'paper_ablation_gleu', 'paper_ablation_radgraph']
    """
    return sorted(path.stem for path in _PRESETS.glob("*.yaml"))


_resolved: dict[str, RewardSpec] = {}


def resolve(spec: str | Path | Mapping[str, Any] | None = None, preset: str | None = None) -> RewardSpec:
    """The reward spec that a run names, checked; each is read once per process. Give exactly one of the two.

    Args:
        spec: path of a YAML file, or its content as a mapping (also OmegaConf's): from each task to a list of
            `{name, weight, options, path}`, of which only `name` is required (weight 1; `path` is a Python file that
            registers the reward, relative to the YAML file or else to the working folder), and optionally
            `answer: {think_end: last | first, boxes: tolerant | released, nothing: stated | any}`, see
            `reward_fns.answers`, `failures: {retries: 2, ...}`, see `FailureRules`, and
            `engine: {where: inline | ray | http, ...}`, see `EngineOptions`; without it, the deployment at the
            address in the environment variable `SCORERS_URL`, if it is set, else inline.
        preset: name of a spec that comes with the package.

    Raises:
        UsageError: anything in it is unknown, misplaced or malformed; the message gives the nearest valid name.

    >>> resolve({"grounding": [{"name": "box_iou"}, {"name": "box_f1@0.5", "weight": 0}]}).reward_names
    ['box_iou', 'box_f1@0.5']
    """
    if (spec is None) == (preset is None):
        example = "+reward.custom_reward_function.reward_kwargs.preset=quickstart"
        raise UsageError(f"give exactly one of spec and preset, e.g. {example}")
    key = repr((spec, preset))
    if key not in _resolved:
        if preset is not None and preset not in preset_names():
            raise UsageError(unknown("preset", preset, preset_names()))
        path = spec if preset is None else _PRESETS / f"{preset}.yaml"
        if isinstance(path, str | Path):
            _resolved[key] = _parse(_read(Path(path)), f"reward spec {path}", Path(path).parent)
        else:
            _resolved[key] = _parse(path, "reward spec", Path())
    return _resolved[key]


def of_rewards(names: Iterable[str]) -> RewardSpec:
    """A spec of these rewards, each of weight 1 under its own task, or under every one if it applies to any.

    >>> list(of_rewards(["box_iou", "gleu"]).tasks)
    ['grounding', 'report']
    """
    tasks = defaultdict(list)
    for name in names:
        for task in get(name).tasks:
            tasks[task].append({"name": name})
    return _parse(tasks, "list of rewards", Path())


def _read(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        hint = f"; for the preset of that name give preset={path}" if str(path) in preset_names() else ""
        raise UsageError(f"no reward spec {path}{hint}") from error
    except OSError as error:
        raise UsageError(f"cannot read reward spec {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"reward spec {path} is not valid YAML: {error}") from error


@dataclass(frozen=True)
class _Answer(Checked):
    think_end: ThinkEnd = "last"
    boxes: Reader = "tolerant"
    nothing: Nothing = "stated"


@dataclass(frozen=True)
class _Item(Checked):
    name: str = ""
    weight: float = 1.0
    options: dict[str, Any] | None = None
    path: str | None = None

    def __post_init__(self) -> None:
        if not self.name:
            raise UsageError(f"every reward needs a name, got {self}")
        super().__post_init__()


def _parse(raw: Any, where: str, folder: Path) -> RewardSpec:
    entries = _plain(raw)
    if not isinstance(entries, dict):
        raise UsageError(f"{where}: need a mapping, got {raw!r}")
    valid = (*TASKS, "answer", "failures", "engine")
    for key in entries:
        if key not in valid:
            raise UsageError(f"{where}: {unknown('task or key', key, valid)}")
    answer = from_mapping(_Answer, entries.pop("answer", {}), f"{where}, answer")
    failures = from_mapping(FailureRules, entries.pop("failures", {}), f"{where}, failures")
    shared = {"where": "http", "address": os.environ[SCORERS_URL]} if os.environ.get(SCORERS_URL) else {}
    engine = from_mapping(EngineOptions, entries.pop("engine", shared), f"{where}, engine", REMOVED)
    if not entries:
        raise UsageError(f"{where}: has no task; give one of {', '.join(TASKS)} a list of rewards")
    tasks = {}
    for task, items in entries.items():
        if not isinstance(items, list) or not items:
            raise UsageError(f"{where}, {task}: need a non-empty list of rewards, got {items!r}")
        tasks[task] = tuple(_component(item, task, f"{where}, {task}", folder) for item in items)
        (name, count), *_ = Counter(component.reward.name for component in tasks[task]).most_common(1)
        if count > 1:
            raise UsageError(f"{where}, {task}: reward {name!r} is there twice")
    return RewardSpec(tasks, answer.think_end, failures, engine, answer.boxes, answer.nothing)


def _component(raw: Any, task: str, where: str, folder: Path) -> Component:
    named = isinstance(raw, dict) and isinstance(raw.get("name"), str)
    item = from_mapping(_Item, raw, f"{where}, {raw['name']}" if named else where)
    if item.path is not None:
        load_file((folder / Path(item.path).expanduser()).resolve())
    try:
        reward = get(item.name)
        options = reward.check_options(item.options or {})
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error
    if task not in reward.tasks:
        raise UsageError(f"{where}: reward {reward.name} is for task {reward.task}; put it there")
    return Component(reward, float(item.weight), options)


def _plain(raw: Any) -> Any:
    """Any mappings and sequences (OmegaConf's, say) as dicts and lists."""
    if isinstance(raw, Mapping):
        return {key: _plain(value) for key, value in raw.items()}
    return [_plain(item) for item in raw] if isinstance(raw, Sequence) and not isinstance(raw, str | bytes) else raw
