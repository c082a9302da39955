"""Values of options and settings, checked against their type hints before anything runs."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

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
