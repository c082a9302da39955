"""Settings of a reward spec (`engine`, `failures`), and the checks of them and of options against type hints."""

import contextlib
import functools
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

import yaml
from annotated_types import Interval
from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from reward_fns.errors import UsageError, unknown

Settings = TypeVar("Settings")

# Strict: "3" or true is not a number, and a typing error in a spec is not guessed around.
_CONFIG = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
_NONE: Mapping[str, str] = MappingProxyType({})
_NAMES = {int: "a whole number", float: "a finite number", bool: "true or false", str: "a text"}


class Between(Interval):
    """Bounds of a number, both included, for an annotation such as `Annotated[float, Between(0, 1)]`."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__(ge=low, le=high)


CallSeconds = Annotated[float, Between(0.001, 1_000_000)]  # the time limit of a call


def check_value(name: str, value: Any, hint: Any) -> Any:
    """The value, with lists turned into what the hint asks for (a tuple, say); UsageError if it does not fit.

    Hints that pydantic does not know are not checked.

    >>> check_value("limit", 0, Annotated[int, Between(1, 9)])
    Traceback (most recent call last):
    reward_fns.errors.UsageError: limit must be a whole number from 1 to 9, got 0
    """
    adapter = _adapter(hint)
    if adapter is None:
        return value
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        if isinstance(value, list | dict):  # YAML has no tuples, sets or records; JSON's rules make them of lists
            with contextlib.suppress(TypeError, ValueError):
                return adapter.validate_json(json.dumps(value))
        raise UsageError(_complaint(name, value, hint, error)) from None


@functools.cache
def _adapter(hint: Any) -> TypeAdapter[Any] | None:
    try:
        return TypeAdapter(hint, config=_CONFIG)
    except PydanticUserError:
        return None


def _complaint(name: str, value: Any, hint: Any, error: ValidationError) -> str:
    plain = hint.__origin__ if get_origin(hint) is Annotated else hint
    if get_origin(plain) is Literal:
        return unknown(name, value, map(str, get_args(plain)))
    if plain not in _NAMES:
        first = error.errors()[0]
        index = "".join(f"[{part!r}]" for part in first["loc"] if isinstance(part, int))
        return f"{name}{index}: {first['msg'].lower()}, got {first['input']!r}"
    bounds = [extra for extra in getattr(hint, "__metadata__", ()) if isinstance(extra, Between)]
    span = "".join(f" from {extra.ge} to {extra.le}" for extra in bounds)
    return f"{name} must be {_NAMES[plain]}{span}, got {value!r}"


@functools.cache
def hints_of(owner: Callable[..., Any]) -> Mapping[str, Any]:
    """Type hints, bounds included; empty if only a type checker can resolve them."""
    try:
        return get_type_hints(owner, include_extras=True)
    except (NameError, TypeError):
        return {}


class Checked:
    """A dataclass whose fields are checked against their type hints when it is made; wrong ones raise UsageError."""

    def __post_init__(self) -> None:
        hints = hints_of(type(self))  # type: ignore[arg-type]
        for field in fields(self):  # type: ignore[arg-type]
            check_value(field.name, getattr(self, field.name), hints[field.name])


def from_mapping(kind: type[Settings], raw: Any, where: str, removed: Mapping[str, str] = _NONE) -> Settings:
    """A dataclass that checks itself, from its values by name; `removed` are former keys with what to do instead."""
    if not isinstance(raw, Mapping):
        raise UsageError(f"{where}: need a mapping, got {raw!r}")
    valid = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    for key in raw:
        if key not in valid:
            raise UsageError(f"{where}: {removed.get(key) or unknown('key', key, valid)}")
    try:
        return kind(**raw)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error


def read_pairs(flag: str, texts: Sequence[str]) -> dict[str, Any]:
    """Values given to a flag of a command line as name=value, each value as in YAML. Raises UsageError.

    >>> read_pairs("--engine", ["dtype=bfloat16", "cache_mb=64"])
    {'dtype': 'bfloat16', 'cache_mb': 64}
    """
    values = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"{flag} takes name=value, got {text!r}")
        try:
            values[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UsageError(f"{flag}: {value!r} is not a value in YAML") from error
    return values


_REASON = "results are kept in memory only (cache_mb); delete this key and the folder"
REMOVED = {"cache_dir": f"cache_dir was removed: {_REASON}"}  # former keys of `EngineOptions`
_jitter = random.Random()  # its own, so that retries don't shift anyone's seeded random numbers


@dataclass(frozen=True)
class FailureRules(Checked):
    """How a failing scorer is treated; the entry `failures` of a reward spec.

    Attributes:
        retries: how many more times a sample is tried, alone, whose scorer raised an exception, took too long or
            returned anything but a number in its range.
        backoff: seconds before the first retry, doubled with each further one, give or take a quarter.
        timeout: seconds that one call of a batched, blocking or async reward may take, loading weights included. An
            async one is then cancelled; a thread is left behind, so a scorer should have its own time-out as well.
        max_rate: share of a reward's samples, after their retries, that may fail; above it, over all workers, a run
            ends. The same holds for rollouts without a reward for any cause, and in each validation.
        window: steps over which the share is taken.
        stop_after: samples failed in a row, in the order in which they were asked for, after which a reward counts as
            dead: every further call fails at once, and a training run ends. A reward of weight 0 only watches: it ends
            no run; once dead it is tried once per sample, without retries.
        concurrency: calls of one such reward under way at once in a process; waiting for a slot does not count against
            the time limit.

    >>> FailureRules(stop_after=0)
    Traceback (most recent call last):
    reward_fns.errors.UsageError: stop_after must be a whole number from 1 to 1000000, got 0
    """

    retries: Annotated[int, Between(0, 1000)] = 2
    backoff: Annotated[float, Between(0, 1_000_000)] = 1.0
    timeout: CallSeconds = 120.0
    max_rate: Annotated[float, Between(0, 1)] = 0.1
    window: Annotated[int, Between(1, 1000)] = 3
    stop_after: Annotated[int, Between(1, 1_000_000)] = 20
    concurrency: Annotated[int, Between(1, 100_000)] = 32

    def pause(self, retry: int) -> float:
        """Seconds to wait before a retry, of which the first is number 0."""
        return float(self.backoff) * 2.0**retry * _jitter.uniform(0.75, 1.25)


@dataclass(frozen=True)
class EngineOptions(Checked):
    """How and where neural rewards are computed; the entry `engine` of a reward spec.

    Attributes:
        where: "inline", in this process; "ray", by the Ray Serve deployment of this Ray cluster; "http", by such a
            deployment at `address`. The same code computes in all three.
        address: for http, of the deployment, as http://host:8000.
        replicas, max_replicas: for ray, copies of the models, and the most when requests queue (0: no growth).
        gpus, cpus: for ray, what Ray sets aside for each replica; a share of a GPU is possible.
        device: "auto" is cuda if the process has one, else cpu; or a device by name, as "cuda:1" or "mps".
        dtype: of the transformers; anything but float32 changes some values, see `python -m reward_fns precision`.
        compile: use torch.compile on the transformers; needs a C++ compiler and takes minutes at first.
        threads: of PyTorch on the CPU; 0 for its own choice, or what `cpus` says in a replica.
        wait_ms: how long the first text of a batch waits for others.
        batch_tokens: most tokens of a batch, with padding; 0 for 2048 on a CPU, else 16384. Halved if memory runs out.
        queue: texts that may wait for a model; later ones wait for a slot, within the time limit.
        cache_mb: memory in which each model keeps its results, so that references, above all, are read once.

    >>> EngineOptions(where="http")
    Traceback (most recent call last):
    reward_fns.errors.UsageError: where: http needs the address of a deployment, as http://host:8000, got ''
    """

    where: Literal["inline", "ray", "http"] = "inline"
    address: str = ""
    replicas: Annotated[int, Between(1, 10_000)] = 1
    max_replicas: Annotated[int, Between(0, 10_000)] = 0
    gpus: Annotated[float, Between(0, 64)] = 0.0
    cpus: Annotated[float, Between(0, 1024)] = 1.0
    device: str = "auto"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    compile: bool = False
    threads: Annotated[int, Between(0, 1024)] = 0
    wait_ms: Annotated[float, Between(0, 1000)] = 5.0
    batch_tokens: Annotated[int, Between(0, 1 << 24)] = 0
    queue: Annotated[int, Between(1, 1 << 24)] = 8192
    cache_mb: Annotated[int, Between(0, 1 << 20)] = 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        changed = {key.name for key in fields(self) if getattr(self, key.name) != key.default}
        if self.where == "http":
            parts = urlsplit(self.address)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                need = "where: http needs the address of a deployment, as http://host:8000"
                raise UsageError(f"{need}, got {self.address!r}")
        elif self.address:
            raise UsageError(f"address goes with where: http; where is {self.where}")
        misplaced, hint = {
            "http": (changed - {"where", "address"}, "set this where the deployment is started"),
            "inline": (changed & {"replicas", "max_replicas", "gpus", "cpus"}, "needs where: ray"),
        }.get(self.where, ((), ""))
        if misplaced:
            raise UsageError(f"{', '.join(sorted(misplaced))}: {hint}")
        if self.max_replicas and self.max_replicas < self.replicas:
            raise UsageError(f"max_replicas must be 0 or at least replicas, {self.replicas}, got {self.max_replicas}")


def parse(given: Sequence[str]) -> EngineOptions:
    """Options as `--engine` has them on a command line, see `read_pairs`."""
    return from_mapping(EngineOptions, read_pairs("--engine", given), "--engine", REMOVED)


class CallSettings(NamedTuple):
    """What the engine honors while a reward is called."""

    options: EngineOptions
    deadline: float  # on the clock of `time.monotonic`; afterwards nobody waits for the answer
    peers: Any = None  # other replicas, which read the texts that belong to them: `reward_fns.engine.lanes.Peers`


_DEFAULT = CallSettings(EngineOptions(), float("inf"))
_current: ContextVar[CallSettings] = ContextVar("reward_fns_call_settings", default=_DEFAULT)
current = _current.get  # the settings in force for the reward that is being called


@contextlib.contextmanager
def using(options: EngineOptions, timeout: float = float("inf"), peers: Any = None) -> Iterator[None]:
    """Apply these engine options, this time limit in seconds and these peers to what this thread calls inside."""
    token = _current.set(CallSettings(options, time.monotonic() + timeout, peers))
    try:
        yield
    finally:
        _current.reset(token)
