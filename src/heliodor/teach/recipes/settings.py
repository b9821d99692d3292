"""Settings of a recipe that the command line may change, one ``name=value`` at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from heliodor.errors import TrainingError

SettingsT = TypeVar("SettingsT")


def override(settings: SettingsT, changes: Mapping[str, str]) -> SettingsT:
    """A copy of a settings dataclass with some fields changed.

    A value is read as the type of the field's present value: int, float, bool (true/false) or str.
    Numbers are finite and not negative.

    Raises:
        TrainingError: no such field, a value of another type, or a field that holds neither a
            number nor text.
    """
    known = _known(settings)
    parsed: dict[str, Any] = {}
    for name, text in changes.items():
        if name not in known:
            raise TrainingError(f"no setting '{name}'; there are {', '.join(known)}")
        parsed[name] = _read(name, text, known[name])
    return _replaced(settings, parsed)


def at_least_one(settings: object, *names: str) -> None:
    """Check the counts among a recipe's settings.

    Raises:
        TrainingError: one of them is less than 1.
    """
    for name in names:
        if getattr(settings, name) < 1:
            raise TrainingError(f"{name}={getattr(settings, name)}: at least 1 is wanted")


def _known(settings: Any) -> dict[str, Any]:
    return {field.name: getattr(settings, field.name) for field in fields(settings)}


def _replaced(settings: Any, changes: Mapping[str, Any]) -> Any:
    return replace(settings, **changes)


def _read(name: str, text: str, present: object) -> bool | float | str:
    if isinstance(present, str):
        return text
    if isinstance(present, bool):
        if text.lower() not in ("true", "false"):
            raise TrainingError(f"{name}={text}: true or false is wanted")
        return text.lower() == "true"
    if not isinstance(present, int | float):
        raise TrainingError(f"{name}={text}: this setting is changed in Python only")
    kind = float if isinstance(present, float) else int
    try:
        value = kind(text)
    except ValueError:
        raise TrainingError(f"{name}={text}: a value of type {kind.__name__} is wanted") from None
    if not (math.isfinite(value) and value >= 0):
        raise TrainingError(f"{name}={text}: a finite number of 0 or more is wanted")
    return value
