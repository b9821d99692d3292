"""One object of a JSON configuration, read field by field. Importing this module loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from heliodor.errors import ConfigError

CONFIG = "config.json"
_MOST = 2**24  # no size in a configuration is anywhere near it


@dataclass(frozen=True, slots=True)
class Section:
    """One JSON object of a configuration, with messages that name the file and the field."""

    values: dict[str, Any]
    where: str

    def wrong(self, field: str, expected: str) -> ConfigError:
        """The error for a field that is not what was expected."""
        came = repr(self.values[field])[:80] if field in self.values else "missing"
        return ConfigError(f"{self.where}{field} is {came}; expected {expected}")

    def section(self, field: str) -> Section:
        """A nested object."""
        value: Any = self.values.get(field)
        if not isinstance(value, dict):
            raise self.wrong(field, "an object")
        return Section(cast("dict[str, Any]", value), f"{self.where}{field}.")

    def count(self, field: str, default: int | None = None, *, most: int = _MOST) -> int:
        """A whole number from 1 to ``most``."""
        value: Any = self.values.get(field)
        if value is None and default is not None:
            return default
        if type(value) is not int or not 1 <= value <= most:
            raise self.wrong(field, f"a whole number from 1 to {most}")
        return value

    def number(self, field: str, default: float) -> float:
        """A finite number above 0."""
        value: Any = self.values.get(field)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
            raise self.wrong(field, "a number above 0")
        return float(value)

    def optional(self, field: str, default: float) -> float | None:
        """A finite number above 0, or None where the file says null."""
        if field in self.values and self.values[field] is None:
            return None
        return self.number(field, default)

    def require(self, field: str, allowed: Sequence[object], because: str) -> None:
        """A field that may be left out, but if it is there has one of these values."""
        value: Any = self.values.get(field)
        if value is not None and value not in allowed:
            choices = " or ".join(repr(choice) for choice in allowed)
            raise self.wrong(field, f"{choices}: {because}")
