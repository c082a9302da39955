"""Reward specs: which rewards a task has, with which weights and options."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, get_args

from reward_fns.answers import ThinkEnd
from reward_fns.errors import UsageError, unknown
from reward_fns.failures import FailureRules
from reward_fns.registry import TASKS, Reward, get, load_file
from reward_fns.settings import EngineOptions

Settings = TypeVar("Settings", FailureRules, EngineOptions)

_PRESETS = Path(__file__).parent / "presets"


@dataclass(frozen=True)
class Component:
    """One reward of a spec with its weight (0: logged only) and the options that differ from the defaults."""

    reward: Reward
    weight: float
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RewardSpec:
    """The rewards of every task, how an answer is found in a model's output, the rules for failing scorers, and where
    neural rewards are computed."""

    tasks: Mapping[str, tuple[Component, ...]]
    think_end: ThinkEnd = "last"
    failures: FailureRules = field(default_factory=FailureRules)
    engine: EngineOptions = field(default_factory=EngineOptions)

    @property
    def reward_names(self) -> list[str]:
        """Names of all rewards, task by task, each once: the same keys for every sample."""
        every = (component.reward.name for components in self.tasks.values() for component in components)
        return list(dict.fromkeys(every))


def preset_names() -> list[str]:
    """Names of the specs that come with the package.

    >>> [name for name in preset_names() if name.startswith("paper_ablation")]
    ['paper_ablation_bertscore', 'paper_ablation_gleu', 'paper_ablation_radgraph']
    """
    return sorted(path.stem for path in _PRESETS.glob("*.yaml"))


_resolved: dict[str, RewardSpec] = {}


def resolve(spec: str | Path | Mapping[str, Any] | None = None, preset: str | None = None) -> RewardSpec:
    """The reward spec that a run names, checked; read once per process.

    Args:
        spec: path of a YAML file, or its content as a mapping (also OmegaConf's): from each task to a list of
            `{name, weight, options, path}`, of which only `name` is a must (weight 1; `path` is a Python file that
            registers the reward, relative to the YAML file or else to the working folder), and optionally
            `answer: {think_end: first | last}`, see `extract_answer`, `failures: {retries: 2, ...}`, see
            `FailureRules`, and `engine: {where: inline | ray | http, ...}`, see `EngineOptions`.
        preset: name of a spec that comes with the package. Give exactly one of the two.

    Raises:
        UsageError: anything in it is unknown, misplaced or malformed; the message gives the nearest valid name.

    >>> resolve({"grounding": [{"name": "box_iou"}, {"name": "box_f1@0.5", "weight": 0}]}).reward_names
    ['box_iou', 'box_f1@0.5']
    """
    if (spec is None) == (preset is None):
        raise UsageError(
            "give exactly one of spec and preset, e.g. +reward.custom_reward_function.reward_kwargs.preset=quickstart"
        )
    key = repr((spec, preset))
    if key not in _resolved:
        if preset is not None:
            if preset not in preset_names():
                raise UsageError(unknown("preset", preset, preset_names()))
            spec = _PRESETS / f"{preset}.yaml"
        if isinstance(spec, str | Path):
            _resolved[key] = _parse(_read(Path(spec)), f"reward spec {spec}", Path(spec).parent)
        else:
            _resolved[key] = _parse(spec, "reward spec", Path())
    return _resolved[key]


def of_rewards(names: Iterable[str]) -> RewardSpec:
    """A spec of these rewards, each of weight 1 under its own task, or under every one if it applies to any.

    >>> list(of_rewards(["box_iou", "gleu"]).tasks)
    ['grounding', 'report']
    """
    tasks: dict[str, list[dict[str, str]]] = {}
    for name in names:
        for task in get(name).tasks:
            tasks.setdefault(task, []).append({"name": name})
    return _parse(tasks, "list of rewards", Path())


def _read(path: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        hint = f"; for the preset of that name give preset={path}" if str(path) in preset_names() else ""
        raise UsageError(f"no reward spec {path}{hint}") from error
    except OSError as error:
        raise UsageError(f"cannot read reward spec {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"reward spec {path} is not valid YAML: {error}") from error


def _parse(raw: Any, where: str, folder: Path) -> RewardSpec:
    entries = _mapping(raw, where, [*TASKS, "answer", "failures", "engine"], "task or key")
    think_end = _mapping(entries.pop("answer", {}), f"{where}, answer", ["think_end"], "key").get("think_end", "last")
    if think_end not in get_args(ThinkEnd):
        raise UsageError(f"{where}, answer: {unknown('think_end', think_end, get_args(ThinkEnd))}")
    failures = _settings(FailureRules, entries.pop("failures", {}), f"{where}, failures")
    engine = _settings(EngineOptions, entries.pop("engine", {}), f"{where}, engine")
    if not entries:
        raise UsageError(f"{where}: has no task; give one of {', '.join(TASKS)} a list of rewards")
    tasks = {}
    for task, items in entries.items():
        if not isinstance(items, Sequence) or isinstance(items, str) or not items:
            raise UsageError(f"{where}, {task}: need a list of rewards that is not empty, got {items!r}")
        tasks[task] = tuple(_component(item, task, f"{where}, {task}", folder) for item in items)
        names = [component.reward.name for component in tasks[task]]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise UsageError(f"{where}, {task}: reward {twice[0]!r} is there twice")
    return RewardSpec(tasks, think_end, failures, engine)


def _settings(kind: type[Settings], raw: Any, where: str) -> Settings:
    given = _mapping(raw, where, [key.name for key in fields(kind)], "key")
    try:
        return kind(**given)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error


def _component(raw: Any, task: str, where: str, folder: Path) -> Component:
    item = _mapping(raw, where, ["name", "weight", "options", "path"], "key")
    if not isinstance(item.get("name"), str):
        raise UsageError(f"{where}: every reward needs a name, got {item}")
    if item.get("path") is not None:
        load_file((folder / Path(str(item["path"])).expanduser()).resolve())
    weight = item.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
        raise UsageError(f"{where}: weight of {item['name']} must be a finite number, got {weight!r}")
    try:
        reward = get(item["name"])
        options = item.get("options") or {}
        if not isinstance(options, Mapping):
            raise UsageError(f"options of {reward.name}: need a mapping, got {options!r}")
        reward.check_options(options)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error
    if task not in reward.tasks:
        raise UsageError(f"{where}: reward {reward.name} is for task {reward.task}; put it there")
    return Component(reward, float(weight), dict(options))


def _mapping(raw: Any, where: str, valid: Iterable[str], kind: str) -> dict[str, Any]:
    if not isinstance(raw, Mapping):
        raise UsageError(f"{where}: need a mapping, got {raw!r}")
    for key in raw:
        if key not in valid:
            raise UsageError(f"{where}: {unknown(kind, key, valid)}")
    return dict(raw)
