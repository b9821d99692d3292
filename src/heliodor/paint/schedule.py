"""At which times an ODE solver stops: the grids of the two references, each by name.

Time runs from 0, noise, to 1, the picture. What a reference calls its number of steps is not the
same in both, and here a number means what it means to the reference whose grid it is:

    official    N points from 0 to 1, so N - 1 intervals, each then shifted toward noise
    diffusers   N points from 0 to 0.999 and then 1, so N intervals, the last of 0.001

Source: Lumina-T2X ``transport/integrators.py``; diffusers ``FlowMatchEulerDiscreteScheduler``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import index
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from heliodor.errors import InputError

__all__ = ["GRIDS", "DiffusersGrid", "Grid", "OfficialGrid", "Times", "choose_grid", "resume_from"]

_TRAIN_STEPS = 1000  # of diffusers' scheduler: its smallest sigma is one of these


@runtime_checkable
class Grid(Protocol):
    """Where a solver stops."""

    name: ClassVar[str]

    def times(self, steps: int) -> Tensor:
        """Float32 [points], rising from 0 to 1, for a number of steps as the reference counts."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class OfficialGrid:
    """``t / (t + s - s t)`` of evenly spaced points: the larger s, the more of them near noise.

    Attributes:
        shift: s, above 0; 1 leaves the points evenly spaced, 4 is what the published demos use.
    """

    name: ClassVar[str] = "official"
    shift: float = 4.0

    def __post_init__(self) -> None:
        """Refuse a shift that no grid can have."""
        _check_shift(self.shift)

    def times(self, steps: int) -> Tensor:
        """``steps`` points, so ``steps - 1`` intervals: float32 [steps].

        Raises:
            InputError: fewer than two points.
        """
        _check_steps(steps, 2, "of the official grid counts points, one more than intervals")
        even = torch.linspace(0.0, 1.0, index(steps))
        return even / (even + self.shift - self.shift * even)


@dataclass(frozen=True, kw_only=True, slots=True)
class DiffusersGrid:
    """The sigmas of diffusers' scheduler with its defaults, as times ``1 - sigma``.

    A shift other than 1 is applied as that scheduler applies it: to its smallest sigma when it is
    built, and to all sigmas again. So its grid of shift 4 is not the official one.

    Attributes:
        shift: of ``scheduler_config.json``, above 0.
    """

    name: ClassVar[str] = "diffusers"
    shift: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a shift that no grid can have."""
        _check_shift(self.shift)

    def times(self, steps: int) -> Tensor:
        """``steps`` intervals: float32 [steps + 1].

        Raises:
            InputError: no step at all.
        """
        _check_steps(steps, 1, "of diffusers' grid counts intervals")
        least = self._shifted(torch.tensor(1.0 / _TRAIN_STEPS))
        even = torch.linspace(1.0, float(least), index(steps), dtype=torch.float64)
        sigmas = torch.cat((self._shifted(even).float(), torch.zeros(1)))
        return 1.0 - sigmas

    def _shifted(self, sigma: Tensor) -> Tensor:
        return self.shift * sigma / (1.0 + (self.shift - 1.0) * sigma)


@dataclass(frozen=True, slots=True)
class Times:
    """Points of one's own; the number of steps is theirs.

    Attributes:
        points: rising from 0 to 1.
    """

    name: ClassVar[str] = "times"
    points: Sequence[float]

    def __post_init__(self) -> None:
        """Refuse points that lead nowhere."""
        found = [float(point) for point in self.points]
        rises = all(a < b for a, b in pairwise(found))
        if len(found) < 2 or found[0] != 0.0 or found[-1] != 1.0 or not rises:
            raise InputError(
                f"the times are {found[:8]}; expected at least two, rising from 0 (noise) to 1"
            )

    def times(self, steps: int) -> Tensor:  # noqa: ARG002 - the points say it
        """Float32 [points], as given."""
        return torch.tensor([float(point) for point in self.points])


GRIDS: dict[str, type[OfficialGrid] | type[DiffusersGrid]] = {
    grid.name: grid for grid in (OfficialGrid, DiffusersGrid)
}


def choose_grid(grid: str | Grid, shift: float | None = None) -> Grid:
    """A grid by its name, with a shift of one's own, or the grid itself.

    Args:
        grid: "official", "diffusers", or an object.
        shift: of the named grid; None for its default.

    Raises:
        InputError: an unknown name, or a shift for an object that has its own.
    """
    if not isinstance(grid, str):
        if not isinstance(grid, Grid):  # pyright: ignore[reportUnnecessaryIsInstance] - what a caller passes
            raise InputError(f"grid is {grid!r}; expected 'official', 'diffusers' or an object")
        if shift is not None:
            raise InputError("shift belongs to a grid's name: give it to the object instead")
        return grid
    if grid not in GRIDS:
        raise InputError(f"grid is {grid!r}; expected one of {', '.join(map(repr, GRIDS))}")
    return GRIDS[grid]() if shift is None else GRIDS[grid](shift=shift)


def resume_from(times: Tensor, strength: float) -> Tensor:
    """The rest of a grid, for a picture that is painted over: the later, the less it changes.

    The grid is shifted first and cut then: of N points the first ``int(N (1 - strength))`` are
    left out, as in Lumina-T2X ``sample_img2img.py``.

    Args:
        times: float32 [points].
        strength: above 0, at most 1; 1 keeps the whole grid, and nothing of the picture.

    Raises:
        InputError: a strength outside of that, or one that leaves no interval.
    """
    if not 0.0 < strength <= 1.0:
        raise InputError(f"strength is {strength}; expected a number above 0, at most 1")
    rest = times[int(times.shape[0] * (1.0 - strength)) :]
    if rest.shape[0] < 2:
        raise InputError(
            f"strength {strength} leaves none of {times.shape[0] - 1} intervals: take more steps "
            "or a larger strength"
        )
    return rest


def _check_steps(steps: int, least: int, meaning: str) -> None:
    if type(steps) is not int or steps < least:
        raise InputError(
            f"steps is {steps!r}; expected a whole number from {least}: steps {meaning}"
        )


def _check_shift(shift: float) -> None:
    if not (math.isfinite(shift) and shift > 0):
        raise InputError(f"shift is {shift}; expected a number above 0")
