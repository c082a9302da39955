"""How and where neural rewards are computed: the entry `engine` of a reward spec."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, fields
from typing import Literal, NamedTuple, get_args, get_type_hints
from urllib.parse import urlsplit

from reward_fns.errors import UsageError, unknown

Where = Literal["inline", "ray", "http"]
Dtype = Literal["float32", "bfloat16", "float16"]

_OF_RAY = ("replicas", "max_replicas", "gpus", "cpus")
_OF_MODELS = ("device", "dtype", "compile", "threads", "wait_ms", "batch_tokens", "queue", "cache_mb", "cache_dir")
_BOUNDS = {  # of numbers, both ends included
    "replicas": (1, 10_000),
    "max_replicas": (0, 10_000),
    "gpus": (0.0, 64.0),
    "cpus": (0.0, 1024.0),
    "threads": (0, 1024),
    "wait_ms": (0.0, 1000.0),
    "batch_tokens": (0, 1 << 24),
    "queue": (1, 1 << 24),
    "cache_mb": (0, 1 << 20),
}


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
        queue: texts that may wait for a model; who comes later waits for a place, within the time limit.
        cache_mb: of memory that each model may keep what it has found in, so that the reports that come again, above
            all the references, are read once.
        cache_dir: folder where what has been found in a text that came more than once is kept between runs, by weights,
            precision and text; "" for nowhere.

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
    replicas: int = 1
    max_replicas: int = 0
    gpus: float = 0.0
    cpus: float = 1.0
    device: str = "auto"
    dtype: Dtype = "float32"
    compile: bool = False
    threads: int = 0
    wait_ms: float = 5.0
    batch_tokens: int = 0
    queue: int = 8192
    cache_mb: int = 1024
    cache_dir: str = ""

    def __post_init__(self) -> None:
        hints = get_type_hints(EngineOptions)
        for key in fields(self):
            self._check(key.name, hints[key.name])
        changed = {key.name for key in fields(self) if getattr(self, key.name) != key.default}
        if self.where == "http":
            parts = urlsplit(self.address)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise UsageError(
                    f"where: http needs the address of a deployment, as http://host:8000, got {self.address!r}"
                )
            self._refuse(changed.intersection((*_OF_RAY, *_OF_MODELS)), "are the deployment's own settings")
        elif self.address:
            raise UsageError(f"address goes with where: http; where is {self.where}")
        if self.where == "inline":
            self._refuse(changed.intersection(_OF_RAY), "go with where: ray")
        if self.max_replicas and self.max_replicas < self.replicas:
            raise UsageError(f"max_replicas must be 0 or at least replicas, {self.replicas}, got {self.max_replicas}")

    def _check(self, name: str, hint: type) -> None:
        value = getattr(self, name)
        if name in ("where", "dtype"):
            if value not in get_args(hint):
                raise UsageError(unknown(name, value, get_args(hint)))
        elif hint is float or hint is int:
            low, high = _BOUNDS[name]
            if type(value) not in ((int, float) if hint is float else (int,)) or not (
                math.isfinite(value) and low <= value <= high
            ):
                raise UsageError(f"{name} must be a number of type {hint.__name__} from {low} to {high}, got {value!r}")
        elif type(value) is not hint:
            raise UsageError(f"{name} must be of type {hint.__name__}, got {value!r}")

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
    import yaml

    valid = [key.name for key in fields(EngineOptions)]
    values = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--engine takes name=value, got {text!r}")
        if key not in valid:
            raise UsageError(f"--engine: {unknown('option', key, valid)}")
        values[key] = yaml.safe_load(value)
    return EngineOptions(**values)


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
