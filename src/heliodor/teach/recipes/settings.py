"""Settings of a recipe that the command line may change, one ``name=value`` at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from heliodor.errors import TrainingError

SettingsT = TypeVar("SettingsT")


def override(settings: SettingsT, changes: Mapping[str, str]) -> SettingsT:
    """A copy of a settings dataclass with some fields changed.

    A value is read as the type of the field's present value: int, float, bool (true/false) or str.

    Raises:
        TrainingError: no such field, or a value of another type.
    """
    chosen: Any = settings
    names: list[str] = [field.name for field in fields(chosen)]
    known: dict[str, Any] = {name: getattr(chosen, name) for name in names}
    parsed: dict[str, Any] = {}
    for name, text in changes.items():
        if name not in known:
            raise TrainingError(f"no setting '{name}'; there are {', '.join(known)}")
        parsed[name] = _read(name, text, type(known[name]))
    return replace(chosen, **parsed)


def _read(name: str, text: str, kind: type[Any]) -> Any:
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise TrainingError(f"{name}={text}: true or false is wanted")
        return text.lower() == "true"
    try:
        return kind(text)
    except ValueError:
        raise TrainingError(f"{name}={text}: a value of type {kind.__name__} is wanted") from None
