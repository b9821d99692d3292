"""Our configurations as JSON, read back strictly."""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from heliodor.errors import ConfigError

Record = TypeVar("Record")

_MOST = 2**24  # no size in a configuration is anywhere near it
_DEEPEST = 1024  # layers
_COUNTS_LAYERS = ("depth", "num_blocks")
_MAY_BE_NONE = ("num_blocks",)  # residual blocks of a mask codec


def read_record(kind: type[Record], values: object, where: str) -> Record:
    """A configuration from the JSON that ``dataclasses.asdict`` gave.

    A field that has a default may be absent, as it is in a file from before the field was there.

    Args:
        kind: a frozen dataclass of numbers, tuples of them, and further such dataclasses.
        values: the JSON object.
        where: opens each message, such as ``"model.safetensors: config."``.

    Raises:
        ConfigError: a field unknown, missing, of another type or out of range.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{where.rstrip('.')} is {_told(values)}; expected an object")
    given = cast("dict[str, Any]", values)
    known = {field.name: field for field in fields(cast("Any", kind))}
    unknown = sorted(given.keys() - known.keys())
    if unknown:
        raise ConfigError(
            f"{where}{_told(unknown[0])} is unknown: a later release wrote it? Update heliodor"
        )
    types_of = get_type_hints(kind)
    read: dict[str, Any] = {}
    for name, field in known.items():
        if name in given:
            read[name] = _value(types_of[name], given[name], name, where)
        elif field.default is MISSING and field.default_factory is MISSING:
            raise ConfigError(f"{where}{name} is missing")
    return kind(**read)


def _told(value: object) -> str:
    """What came, as text that can be printed."""
    return str(value)[:80].encode("utf-8", "backslashreplace").decode()


def _value(kind: Any, value: object, name: str, where: str) -> Any:
    """One field's value, checked against its annotation."""
    if get_origin(kind) is types.UnionType:
        if value is None:
            return None
        kind = next(choice for choice in get_args(kind) if choice is not types.NoneType)
        return _number(kind, value, name, where, least=0)
    if get_origin(kind) is tuple:
        came = _told(value)
        items: list[object] = cast("list[object]", value) if isinstance(value, list) else []
        wanted = get_args(kind)
        if len(items) != len(wanted):
            raise ConfigError(f"{where}{name} is {came}; expected {len(wanted)} numbers")
        pairs = zip(wanted, items, strict=True)
        return tuple(_number(each, item, name, where, least=1) for each, item in pairs)
    if is_dataclass(kind):
        return read_record(cast("type[Any]", kind), value, f"{where}{name}.")
    return _number(kind, value, name, where, least=0 if name in _MAY_BE_NONE else 1)


def _number(kind: Any, value: object, name: str, where: str, *, least: int) -> Any:
    accepts, expected = _CHECKS[kind](name, least)
    if not accepts(value):
        raise ConfigError(f"{where}{name} is {str(value)[:80]!r}; expected {expected}")
    return float(cast("float", value)) if kind is float else value


def _check_int(name: str, least: int) -> tuple[Callable[[object], bool], str]:
    most = _DEEPEST if name in _COUNTS_LAYERS else _MOST
    return (
        lambda value: type(value) is int and least <= value <= most,
        f"a whole number from {least} to {most}",
    )


def _check_float(name: str, least: int) -> tuple[Callable[[object], bool], str]:
    del name, least
    return (
        lambda value: (
            type(value) in (int, float)
            and math.isfinite(cast("float", value))
            and cast("float", value) > 0
        ),
        "a number above 0",
    )


def _check_bool(name: str, least: int) -> tuple[Callable[[object], bool], str]:
    del name, least
    return lambda value: type(value) is bool, "true or false"


_CHECKS: Mapping[Any, Callable[[str, int], tuple[Callable[[object], bool], str]]] = {
    int: _check_int,
    float: _check_float,
    bool: _check_bool,
}
