"""What a calibration is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from heliodor.errors import ConfigError, InputError
from heliodor.quant.calibrate.block import Method
from heliodor.quant.calibrate.rounding import Rounding
from heliodor.quant.calibrate.scaling import Scaling

__all__ = ["METHODS", "SCHEMES", "Settings"]

SCHEMES = ("int8", "int4", "mixed")
"""int4 and mixed keep the image tower, the projector and the table in 8 bits; mixed gives 8 bits to
those of the decoder's layers besides that need them most."""

METHODS: Mapping[str, Callable[[], Method]] = MappingProxyType(
    {
        "both": Method,
        "scaling": lambda: Method(rounding=None),
        "rounding": lambda: Method(scaling=None),
        "nearest": lambda: Method(scaling=None, rounding=None),
    }
)
"""What is searched: factors of channels, codes that make up for each other, both, or neither."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How a model is calibrated.

    Attributes:
        scheme: one of ``SCHEMES``.
        method: one of ``METHODS``.
        samples: pairs of a picture and a prompt, at most.
        answer_tokens: tokens of the float model's answer to each, at most.
        held_out: pairs, at most, on which the result is measured; their pictures calibrate nothing.
        budget: for "mixed": bytes for the decoder's layers; None for a tenth more than int4 takes.
    """

    scheme: str = "int4"
    method: str = "both"
    samples: int = 64
    answer_tokens: int = 24
    held_out: int = 32
    budget: int | None = None

    def __post_init__(self) -> None:
        """Refuse what is not there, and numbers that ask for nothing."""
        for name, known in (("scheme", SCHEMES), ("method", tuple(METHODS))):
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}; expected one of {', '.join(known)}"
                )
        for name in ("samples", "answer_tokens", "held_out"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; expected at least 1")
        if self.budget is not None and self.scheme != "mixed":
            raise InputError(f"a budget chooses layers for 'mixed'; the scheme is {self.scheme!r}")

    def how(self) -> Method:
        """The method, with its numbers."""
        return METHODS[self.method]()

    def to_dict(self) -> dict[str, Any]:
        """The settings in JSON's own types."""
        return {name: getattr(self, name) for name in self.__slots__}


def described(method: Method) -> dict[str, Any]:
    """A method's numbers in JSON's own types: runs that differ in one are not the same run."""
    scaling, rounding = method.scaling, method.rounding
    return {
        "scaling": scaling.steps if isinstance(scaling, Scaling) else None,
        "rounding": [rounding.damping, rounding.ordered]
        if isinstance(rounding, Rounding)
        else None,
        "rows": method.rows,
        "widest": method.widest,
    }
