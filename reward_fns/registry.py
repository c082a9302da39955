"""Register rewards and look them up: built-ins, installed packages and users' files, with the same decorator."""

import functools
import importlib
import importlib.util
import inspect
import math
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar

from reward_fns.errors import UsageError, unknown
from reward_fns.settings import Between as Between  # for rewards, which import it from here
from reward_fns.settings import check_value, hints_of

TASKS = ("report", "grounding")
ANY = "any"  # task of a reward that applies to every task, such as one on the format of the output
ENTRY_POINTS = "cxr_grpo.rewards"
# Context keywords that verl gives where it runs a reward model of its own; None elsewhere.
FROM_VERL = ("reward_router_address", "reward_model_tokenizer")
# Keywords that scoring fills in for a reward whose signature has them; the other keywords are its options.
CONTEXT = ("invalid_boxes", "extra_info", "output", "thinking", *FROM_VERL)
DIAGNOSTICS = ("format_ok", "model_failed", "answer_chars", "n_boxes", "n_invalid_boxes")
# Names that the result, verl's aggregation or verl's dump use for something else.
_OTHERS = {"score", "acc", "acc_success_only", "reward", "pred", "input", "output", "gts", "step", "uid"}
_RESERVED = _OTHERS | set(DIAGNOSTICS)

_FILE_PREFIX = "cxr_grpo_rewards_"  # of the modules that users' files become

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Reward:
    """A registered reward; see `reward` for the attributes that its arguments set."""

    name: str
    task: str
    range: tuple[float, float]
    higher_is_better: bool
    batched: bool
    blocking: bool  # runs in a thread, under a time limit
    version: int
    parameter: str | None
    floor: float
    function: Callable[..., Any]
    options: Mapping[str, Any]  # with their defaults
    context: tuple[str, ...]  # those of `CONTEXT` that it takes
    bound: Mapping[str, Any] = field(default_factory=dict)  # set by a parametrized name: threshold in `box_f1@0.5`
    needs: Callable[[Mapping[str, Any]], Iterable[Any]] | None = None

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that it applies to."""
        return TASKS if self.task == ANY else (self.task,)

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    @property
    def where(self) -> str:
        """File and line of the definition."""
        code = inspect.unwrap(self.function).__code__
        return f"{code.co_filename}:{code.co_firstlineno}"

    @property
    def from_file(self) -> bool:
        """Whether it comes from a user's file rather than from an installed package."""
        return self.function.__module__.startswith(_FILE_PREFIX)

    def __call__(self, prediction: Any, reference: Any, options: Mapping[str, Any], context: Mapping[str, Any]) -> Any:
        """Call the function with its options and with those of the context keywords that it takes."""
        taken = {key: context[key] for key in self.context}
        return self.function(prediction, reference, **self.bound, **options, **taken)

    def check_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options, checked against the function's signature and annotations. Raises UsageError."""
        hints = hints_of(self.function)
        for name in options:
            if name not in self.options:
                raise UsageError(unknown(f"option of reward {self.name}:", name, self.options))
        where = f"of reward {self.name}"
        return {key: check_value(f"{key} {where}", value, hints.get(key, Any)) for key, value in options.items()}


def reward(
    name: str,
    *,
    task: str,
    range: tuple[float, float],
    higher_is_better: bool = True,
    batched: bool = False,
    blocking: bool = False,
    version: int = 1,
    parameter: str | None = None,
    needs: Callable[[Mapping[str, Any]], Iterable[Any]] | None = None,
    floor: float | None = None,
) -> Callable[[Function], Function]:
    """Register the decorated function as a reward.

    The function, `def` or `async def`, takes the prediction and the reference and returns a number. Both are texts
    for task "report", tuples of `Box` for "grounding"; for "any" they are the answer's text and the true report ("" if
    there is none). Further parameters are options, each with a default, that a reward spec can set and that are checked
    against their annotations before anything runs (what pydantic knows, and `Annotated[float, Between(0, 1)]`). Not
    options but filled in are `extra_info` (of the sample), `invalid_boxes` (the prediction's malformed boxes, as
    written), `output` (all that the model wrote), `thinking` (whether it was to think first), and
    `reward_router_address` and `reward_model_tokenizer` (of a judge inside verl, else None); **kwargs gets them all.

    A plain function is called in verl's event loop, where nothing can end it: one that takes more than milliseconds or
    waits for anything must be batched, blocking or async.

    Args:
        name: key of the reward in specs, logs and results: lower case, digits and underscores.
        task: "report", "grounding" or "any".
        range: lowest and highest value, both finite; anything else is a failure of the scorer.
        higher_is_better: which end of the range is the worse.
        batched: the function takes and returns lists of up to 32 entries, one per sample (context keywords too).
            verl scores each rollout by itself, so a training run never batches: many calls with one entry run at the
            same time. Unless async it runs in a thread, as a blocking one.
        blocking: run the function in a thread and give it up at the time limit; several threads may be in it.
        version: raise it when values change.
        parameter: option that can be set in the name, after an "@".
        needs: from all options to the files it needs, each a `HubFile` or `HubFolder` of `reward_fns.models.weights`;
            a generator may read what it has yielded before, to find the next. A batched reward of an installed
            package that has this is computed where the entry `engine` of the spec says.
        floor: what a failure of the model earns, if not the worse end of the range.

    Raises:
        UsageError: for a bad argument or signature, or if the name is taken; the message names both places.

    >>> @reward("brevity", task="report", range=(0.0, 1.0))
    ... def brevity(prediction: str, reference: str, limit: int = 60) -> float:
    ...     return float(len(prediction) <= limit)
    >>> dict(get("brevity").options), get("brevity").floor
    ({'limit': 60}, 0.0)
    """

    def register(function: Function) -> Function:
        in_thread = (batched or blocking) and not inspect.iscoroutinefunction(function)
        worse = range[0] if higher_is_better else range[1]
        entry = Reward(
            name, task, range, higher_is_better, batched, in_thread, version, parameter,
            worse if floor is None else floor, function, *_keywords(name, function), needs=needs,
        )  # fmt: skip
        _check(entry)
        # The same lines loaded again, say by verl under another module name, are not a second reward.
        if name in _registered and _registered[name].where != entry.where:
            raise UsageError(f"two rewards are called {name!r}: {_registered[name].where} and {entry.where}")
        _registered[name] = entry
        return function

    return register


_registered: dict[str, Reward] = {}


def _keywords(name: str, function: Callable[..., Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    parameters = list(inspect.signature(function).parameters.values())
    kinds = [p.kind for p in parameters]
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(positional) < 2 and inspect.Parameter.VAR_POSITIONAL not in kinds:
        raise UsageError(f"reward {name!r}: the function must take a prediction and a reference")
    keywords = [p for p in parameters if p not in positional[:2] and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    options = {p.name: p.default for p in keywords if p.name not in CONTEXT}
    if missing := [option for option, default in options.items() if default is inspect.Parameter.empty]:
        raise UsageError(f"reward {name!r}: option {missing[0]!r} needs a default")
    takes_all = inspect.Parameter.VAR_KEYWORD in kinds
    return options, CONTEXT if takes_all else tuple(p.name for p in keywords if p.name in CONTEXT)


def _check(entry: Reward) -> None:
    name, (low, high), problem = entry.name, entry.range, ""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in _RESERVED:
        reserved = ", ".join(sorted(_RESERVED))
        problem = f"{name!r} can't be the name of a reward: need lower case, digits and underscores, none of {reserved}"
    elif entry.task not in (*TASKS, ANY):
        problem = unknown("task", entry.task, (*TASKS, ANY))
    elif not (math.isfinite(low) and math.isfinite(high) and low < high):
        problem = f"the range of {name!r} must be finite and in order, got {entry.range}"
    elif not low <= entry.floor <= high:
        problem = f"the floor of {name!r}, {entry.floor}, is outside its range {entry.range}"
    elif entry.parameter is not None and entry.parameter not in entry.options:
        problem = unknown("option", entry.parameter, entry.options)
    if problem:
        raise UsageError(f"{entry.where}: {problem}")


@functools.cache
def _discover() -> None:
    """Import the built-ins and what installed packages announce."""
    package = importlib.import_module("reward_fns.rewards")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    for point in entry_points(group=ENTRY_POINTS):
        try:
            point.load()
        except Exception as error:
            what = f"entry point {point.name} = {point.value} of group {ENTRY_POINTS} can't be loaded: {error!r}"
            raise UsageError(f"{what}; fix or uninstall the package that brings it") from error


@functools.cache
def load_file(path: Path) -> None:
    """Import a user's Python file, which registers its rewards and may import files beside it. Raises UsageError."""
    module_spec = importlib.util.spec_from_file_location(f"{_FILE_PREFIX}{path.stem}", path)
    if not path.is_file() or module_spec is None or module_spec.loader is None:
        raise UsageError(f"{path} is not a Python file" if path.is_file() else f"no reward file {path}")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_spec.name] = module  # dataclasses look their module up there
    folder = str(path.parent)
    sys.path.insert(0, folder)  # as for a script
    try:
        module_spec.loader.exec_module(module)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"reward file {path} can't be loaded: {error!r}") from error
    finally:
        sys.path.remove(folder)
        if folder not in sys.path:
            sys.path.append(folder)  # for what the reward imports when it is called


def names() -> list[str]:
    """Names of all rewards, sorted.

    >>> [name for name in names() if name.startswith("box_")]
    ['box_f1', 'box_giou', 'box_iou', 'box_soft_f1']
    """
    _discover()
    return sorted(_registered)


def get(name: str) -> Reward:
    """The reward of that name; after an "@" may stand a value for its `parameter`. Raises UsageError.

    >>> get("box_f1@0.5").bound
    {'threshold': 0.5}
    """
    base, at, text = name.partition("@")
    if base not in names():
        raise UsageError(unknown("reward", name, _registered) + "; your own needs path: FILE.py in the spec")
    entry = _registered[base]
    if not at:
        return entry
    if entry.parameter is None:
        raise UsageError(f"reward {base} takes no value after its name, got {name!r}")
    try:
        bound = entry.check_options({entry.parameter: type(entry.options[entry.parameter])(text)})
    except ValueError as error:
        raise UsageError(f"{name!r}: {text!r} is not a value for option {entry.parameter} of {base}") from error
    rest = {option: default for option, default in entry.options.items() if option != entry.parameter}
    return replace(entry, name=name, options=rest, bound=bound)
