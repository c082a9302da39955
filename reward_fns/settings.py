"""Settings of a reward spec (`engine`, `failures`), and how they and the options of rewards are checked.

Every value is checked against its type hint before anything runs.
"""

import contextlib
import functools
import json
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

from annotated_types import Ge, GroupedMetadata, Le
from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from reward_fns.errors import UsageError, unknown

Settings = TypeVar("Settings")

# Strict: "3" or true is not a number, and a typing error in a spec is not guessed around.
_CONFIG = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
_NAMES = {int: "a whole number", float: "a finite number", bool: "true or false", str: "a text"}


@dataclass(frozen=True)
class Between(GroupedMetadata):
    """Bounds of a number, both included, for an annotation such as `Annotated[float, Between(0, 1)]`."""

    low: float
    high: float

    def __iter__(self) -> Iterator[object]:
        yield Ge(self.low)
        yield Le(self.high)


def check_value(name: str, value: Any, hint: Any) -> Any:
    """The value, with lists turned into what the hint asks for (a tuple, say).

    Args:
        name: what the message calls it.
        value: as YAML or Python gives it.
        hint: any annotation that pydantic knows; others are not checked.

    Raises:
        UsageError: the value does not fit the hint.

    >>> check_value("limit", 3, Annotated[int, Between(1, 9)])
    3
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
            try:
                return adapter.validate_json(json.dumps(value))
            except (ValidationError, TypeError, ValueError):
                pass
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
    span = "".join(f" from {extra.low} to {extra.high}" for extra in bounds)
    return f"{name} must be {_NAMES[plain]}{span}, got {value!r}"


@functools.cache
def hints_of(owner: Callable[..., Any]) -> Mapping[str, Any]:
    """Type hints of a class or function, bounds included; empty if they cannot be resolved."""
    try:
        return get_type_hints(owner, include_extras=True)
    except (NameError, TypeError):  # annotations that only a type checker can resolve
        return {}


def check_fields(record: Any) -> None:
    """Check every field of a dataclass against its type hint. Raises UsageError."""
    hints = hints_of(type(record))  # type: ignore[arg-type]
    for field in fields(record):
        check_value(field.name, getattr(record, field.name), hints[field.name])


def from_mapping(kind: type[Settings], raw: Any, where: str, removed: Mapping[str, str] | None = None) -> Settings:
    """The dataclass with these values; its own checks run.

    Args:
        kind: a dataclass whose `__post_init__` calls `check_fields`.
        raw: its values by name.
        where: what messages begin with.
        removed: former keys, each with what to do instead.

    Raises:
        UsageError: `raw` is not a mapping, or a key (the nearest valid one is named) or value is wrong.
    """
    if not isinstance(raw, Mapping):
        raise UsageError(f"{where}: need a mapping, got {raw!r}")
    valid = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    for key in raw:
        if key in (removed or {}):
            raise UsageError(f"{where}: {(removed or {})[key]}")
        if key not in valid:
            raise UsageError(f"{where}: {unknown('key', key, valid)}")
    try:
        return kind(**raw)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error


def read_pairs(flag: str, texts: Sequence[str]) -> dict[str, Any]:
    """Values given on a command line as name=value, each value as in YAML.

    Raises:
        UsageError: no "=", or not a value in YAML; the message begins with the flag.

    >>> read_pairs("--engine", ["dtype=bfloat16", "cache_mb=64"])
    {'dtype': 'bfloat16', 'cache_mb': 64}
    """
    import yaml

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


Where = Literal["inline", "ray", "http"]
Dtype = Literal["float32", "bfloat16", "float16"]

_OF_RAY = ("replicas", "max_replicas", "gpus", "cpus")
REMOVED = {
    "cache_dir": "cache_dir was removed: results are kept in memory only (cache_mb); delete this key and the folder"
}
"""Former keys of `EngineOptions`, each with what to do instead."""
_jitter = random.Random()  # its own, so that retries don't shift anyone's seeded random numbers


@dataclass(frozen=True)
class FailureRules:
    """How a failing scorer is treated; the entry `failures` of a reward spec.

    Attributes:
        retries: how many more times a sample is tried, alone, whose scorer raised an exception, took too long or
            returned anything but a number in its range.
        backoff: seconds before the first retry, doubled with each further one, give or take a quarter.
        timeout: seconds that one call of a batched, blocking or async reward may take, loading weights included. An
            async one is then cancelled; a thread can't be ended and is left behind, so a scorer should have a time-out
            of its own as well.
        stop_after: samples failed in a row, after their retries, after which a reward is given up for good in this
            process: every further call fails at once, and verl, with no group left to train on, stops by itself. A
            reward of weight 0 is never given up; from there on it is tried once per sample, without retries.
        concurrency: calls of one batched, blocking or async reward that a process has under way at once; the wait
            for a slot doesn't count as time of the call.

    Raises:
        UsageError: a value is out of range.

    >>> FailureRules(timeout=5.0).retries
    2
    >>> FailureRules(stop_after=0)
    Traceback (most recent call last):
    reward_fns.errors.UsageError: stop_after must be a whole number from 1 to 1000000, got 0
    """

    retries: Annotated[int, Between(0, 1000)] = 2
    backoff: Annotated[float, Between(0, 1_000_000)] = 1.0
    timeout: Annotated[float, Between(0.001, 1_000_000)] = 120.0
    stop_after: Annotated[int, Between(1, 1_000_000)] = 20
    concurrency: Annotated[int, Between(1, 100_000)] = 32

    def __post_init__(self) -> None:
        check_fields(self)

    def pause(self, retry: int) -> float:
        """Seconds to wait before a retry, of which the first is number 0."""
        return float(self.backoff) * 2.0**retry * _jitter.uniform(0.75, 1.25)


@dataclass(frozen=True)
class EngineOptions:
    """How and where neural rewards are computed; the entry `engine` of a reward spec.

    Attributes:
        where: "inline", in this process; "ray", by the Ray Serve deployment of this Ray cluster; "http", by such a
            deployment at `address`. The same code computes in all three.
        address: for http, of the deployment, as http://host:8000.
        replicas: for ray, copies of the models in the cluster; at first, if there may be more.
        max_replicas: for ray, how many the deployment may grow to when requests queue; 0 for no growth.
        gpus, cpus: for ray, what Ray sets aside for each replica; a share of a GPU is possible.
        device: "auto" is cuda if the process has one, else cpu; or a device by name, as "cuda:1" or "mps".
        dtype: of the transformers; anything but float32 changes some values, see `python -m reward_fns precision`.
        compile: compile the transformers with torch.compile; needs a C++ compiler and takes minutes at first.
        threads: of PyTorch on the CPU; 0 for its own choice, or what `cpus` says in a replica.
        wait_ms: how long the first text of a batch waits for others.
        batch_tokens: most tokens of a batch, padding included; 0 for 2048 on a CPU and 16384 elsewhere. A batch for
            which memory doesn't suffice is halved, so that this needs no tuning.
        queue: texts that may wait for a model; later ones wait for a slot, within the time limit.
        cache_mb: memory in which each model may keep its results, so that reports that come again, above all the
            references, are read once.

    Raises:
        UsageError: a value is out of range, or has no meaning together with `where`.

    >>> EngineOptions(where="http", address="http://node7:8000").dtype
    'float32'
    >>> EngineOptions(where="http")
    Traceback (most recent call last):
    reward_fns.errors.UsageError: where: http needs the address of a deployment, as http://host:8000, got ''
    """

    where: Where = "inline"
    address: str = ""
    replicas: Annotated[int, Between(1, 10_000)] = 1
    max_replicas: Annotated[int, Between(0, 10_000)] = 0
    gpus: Annotated[float, Between(0, 64)] = 0.0
    cpus: Annotated[float, Between(0, 1024)] = 1.0
    device: str = "auto"
    dtype: Dtype = "float32"
    compile: bool = False
    threads: Annotated[int, Between(0, 1024)] = 0
    wait_ms: Annotated[float, Between(0, 1000)] = 5.0
    batch_tokens: Annotated[int, Between(0, 1 << 24)] = 0
    queue: Annotated[int, Between(1, 1 << 24)] = 8192
    cache_mb: Annotated[int, Between(0, 1 << 20)] = 1024

    def __post_init__(self) -> None:
        check_fields(self)
        changed = {key.name for key in fields(self) if getattr(self, key.name) != key.default}
        if self.where == "http":
            parts = urlsplit(self.address)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise UsageError(
                    f"where: http needs the address of a deployment, as http://host:8000, got {self.address!r}"
                )
            self._refuse(changed - {"where", "address"}, "set this where the deployment is started")
        elif self.address:
            raise UsageError(f"address goes with where: http; where is {self.where}")
        if self.where == "inline":
            self._refuse(changed.intersection(_OF_RAY), "needs where: ray")
        if self.max_replicas and self.max_replicas < self.replicas:
            raise UsageError(f"max_replicas must be 0 or at least replicas, {self.replicas}, got {self.max_replicas}")

    @staticmethod
    def _refuse(names: Iterable[str], why: str) -> None:
        if named := ", ".join(sorted(names)):
            raise UsageError(f"{named}: {why}")


def parse(given: Sequence[str]) -> EngineOptions:
    """Options as on a command line, each as name=value, with values as in YAML.

    Raises:
        UsageError: one is unknown or wrong.

    >>> parse(["dtype=bfloat16", "cache_mb=64"]).cache_mb
    64
    """
    return from_mapping(EngineOptions, read_pairs("--engine", given), "--engine", REMOVED)


class CallSettings(NamedTuple):
    """What the engine honors while a reward is called.

    Attributes:
        options: of the engine.
        deadline: on the clock of `time.monotonic`; afterwards nobody waits for the answer.
    """

    options: EngineOptions
    deadline: float


_DEFAULT = CallSettings(EngineOptions(), float("inf"))
_current: ContextVar[CallSettings] = ContextVar("reward_fns_call_settings", default=_DEFAULT)


@contextlib.contextmanager
def using(options: EngineOptions, timeout: float = float("inf")) -> Iterator[None]:
    """Apply these engine options and this time limit, in seconds, to the rewards that this thread calls inside."""
    token = _current.set(CallSettings(options, time.monotonic() + timeout))
    try:
        yield
    finally:
        _current.reset(token)


def current() -> CallSettings:
    """The settings in force for the reward that is being called."""
    return _current.get()
