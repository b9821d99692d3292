"""How a picture is sampled, as one value that can be written down and read back.

The defaults are those of the published demos: 30 points of the official grid, midpoint, guidance 4
on three channels, the released rule for positions, proportional attention.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from heliodor.errors import InputError
from heliodor.models.nextdit_rope import (
    DIFFUSERS as STRETCHED,
)
from heliodor.models.nextdit_rope import (
    RELEASED,
    Scaling,
    TimeAware,
    Unscaled,
    Watershed,
)
from heliodor.paint.guidance import Guidance, choose_guidance
from heliodor.paint.schedule import DiffusersGrid, Grid, OfficialGrid, Times, choose_grid
from heliodor.paint.skipping import StepSkipping
from heliodor.paint.solver import Euler, Midpoint, Solver, choose_solver

__all__ = ["DIFFUSERS", "OFFICIAL", "SCALINGS", "Settings"]

SCALINGS: dict[str, Scaling] = {
    "released": RELEASED,
    "diffusers": STRETCHED,
    "paper": TimeAware(),
    "off": Unscaled(),
}
"""Rules for the positions of large pictures, by name."""

_MIDPOINT, _OFFICIAL_GRID, _GUIDANCE = Midpoint(), OfficialGrid(), Guidance()


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Everything but the prompt, the size and the seed.

    Attributes:
        steps: as the grid's reference counts them.
        solver: how a step is made.
        grid: where steps begin and end.
        guidance: how far from what would be painted without the prompt.
        scaling: how positions stretch on pictures larger than trained.
        proportional: whether attention grows sharper with the number of patches.
        skipping: an approximation that leaves steps out; None for none.
        strength: of a picture that is painted over, how much of the path is gone again.
    """

    steps: int = 30
    solver: Solver = _MIDPOINT
    grid: Grid = _OFFICIAL_GRID
    guidance: Guidance = _GUIDANCE
    scaling: Scaling = RELEASED
    proportional: bool = True
    skipping: StepSkipping | None = None
    strength: float | None = None

    @classmethod
    def choose(
        cls,
        *,
        solver: str | Solver = "midpoint",
        grid: str | Grid = "official",
        shift: float | None = None,
        guidance: float | Guidance = 4.0,
        scaling: str | Scaling = "released",
        skipping: float | StepSkipping | None = None,
        **others: Any,
    ) -> Settings:
        """Settings from names, numbers and objects, as callers give them.

        Raises:
            InputError: something that is not known, or cannot be used.
        """
        if not isinstance(skipping, StepSkipping | None):
            skipping = StepSkipping(number(skipping, "skipping"))
        strength = others.get("strength")
        if strength is not None and not 0.0 < number(strength, "strength") <= 1.0:
            raise InputError(f"strength is {strength}; expected a number above 0, at most 1")
        settings = cls(
            solver=choose_solver(solver),
            grid=choose_grid(grid, shift),
            guidance=choose_guidance(guidance),
            scaling=_choose_scaling(scaling),
            skipping=skipping,
            **others,
        )
        settings.grid.times(settings.steps)  # refuses steps that make no grid
        return settings

    def to_dict(self) -> dict[str, Any]:
        """In JSON's own types; objects that this library does not know as their ``repr``."""
        shift = getattr(self.grid, "shift", None)
        return {
            "steps": self.steps,
            "solver": self.solver.name,
            "grid": list(self.grid.points) if isinstance(self.grid, Times) else self.grid.name,
            "shift": shift,
            "guidance": self.guidance.scale,
            "guided_channels": self.guidance.channels,
            "guidance_interval": list(self.guidance.interval),
            "scaling": _scaling_to_dict(self.scaling),
            "proportional": self.proportional,
            "skipping": None if self.skipping is None else self.skipping.threshold,
            "strength": self.strength,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Settings:
        """What :meth:`to_dict` wrote.

        Raises:
            InputError: something in it is missing, of another kind, or not known here.
        """
        try:
            grid: Any = values["grid"]
            points = cast("list[Any]", grid)
            first, last = values["guidance_interval"]
            guidance = Guidance(
                scale=float(values["guidance"]),
                channels=values["guided_channels"],
                interval=(float(first), float(last)),
            )
            return cls.choose(
                steps=values["steps"],
                solver=values["solver"],
                grid=Times(tuple(map(float, points))) if isinstance(grid, list) else grid,
                shift=None if isinstance(grid, list) else values["shift"],
                guidance=guidance,
                scaling=_scaling_from_dict(values["scaling"]),
                proportional=bool(values["proportional"]),
                skipping=values["skipping"],
                strength=values["strength"],
            )
        except KeyError as error:
            raise InputError(f"the recorded settings have no {error}") from error
        except (TypeError, ValueError) as error:
            raise InputError(f"the recorded settings cannot be used: {error}") from error


OFFICIAL = Settings()
"""The published demos' settings."""

DIFFUSERS: dict[str, Any] = {"solver": Euler(), "grid": DiffusersGrid(), "scaling": STRETCHED}
"""What ``paint(**DIFFUSERS)`` needs to give what diffusers' LuminaPipeline gives by default."""


def number(value: Any, what: str) -> float:
    """A number that a caller gave.

    Raises:
        InputError: something else.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{what} is {value!r}; expected a number")
    return float(value)


def _choose_scaling(scaling: str | Scaling) -> Scaling:
    if not isinstance(scaling, str):
        return scaling
    if scaling not in SCALINGS:
        raise InputError(
            f"scaling is {scaling!r}; expected one of {', '.join(map(repr, SCALINGS))}"
        )
    return SCALINGS[scaling]


def _scaling_to_dict(scaling: Scaling) -> dict[str, Any] | str:
    for name, known in SCALINGS.items():
        if scaling == known:
            return name
    if isinstance(scaling, Watershed | TimeAware):
        return {"rule": type(scaling).__name__, **dataclasses.asdict(scaling)}
    return repr(scaling)


def _scaling_from_dict(found: Any) -> Scaling:
    if isinstance(found, str):
        return _choose_scaling(found)
    values = dict(cast("dict[str, Any]", found))
    rules = {rule.__name__: rule for rule in (Watershed, TimeAware)}
    return rules[values.pop("rule")](**values)
