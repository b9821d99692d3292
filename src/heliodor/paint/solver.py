"""Solvers of dx/dt = velocity(t, x): one step of each is a few calls of the model.

An object says how a step is made; the time grid says where steps begin and end. All four leave
torchdiffeq's arithmetic as it is: ``rk4`` there is the 3/8 rule, and so it is here.

Source: torchdiffeq ``_impl/fixed_grid.py`` and ``rk_common.py``; Kutta 1901 for the 3/8 rule.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeAlias, runtime_checkable

from torch import Tensor

from heliodor.errors import InputError

__all__ = ["RK4", "SOLVERS", "Euler", "Heun", "Midpoint", "Solver", "Velocity", "choose_solver"]

Velocity: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(time [], x [...]) -> dx/dt [...]."""


@runtime_checkable
class Solver(Protocol):
    """One step of an ODE.

    Attributes:
        name: on the command line and in a picture's metadata.
        calls: of the velocity in one step.
        order: the error of a whole path falls with the step's length to this power.
    """

    name: ClassVar[str]
    calls: ClassVar[int]
    order: ClassVar[int]

    def step(self, velocity: Velocity, x: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """X at time ``start`` -> x at time ``end``; both times are tensors [] of x's type."""
        ...


@dataclass(frozen=True, slots=True)
class Euler:
    """Straight on: one call a step, order 1. diffusers knows no other."""

    name: ClassVar[str] = "euler"
    calls: ClassVar[int] = 1
    order: ClassVar[int] = 1

    def step(self, velocity: Velocity, x: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """``x + h v(t, x)``."""
        return x + (end - start) * velocity(start, x)


@dataclass(frozen=True, slots=True)
class Midpoint:
    """With the velocity found half way: two calls a step, order 2. The official demos' choice."""

    name: ClassVar[str] = "midpoint"
    calls: ClassVar[int] = 2
    order: ClassVar[int] = 2

    def step(self, velocity: Velocity, x: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """``x + h v(t + h/2, x + h/2 v(t, x))``."""
        width = end - start
        half = 0.5 * width
        middle = x + half * velocity(start, x)
        return x + width * velocity(start + half, middle)


@dataclass(frozen=True, slots=True)
class Heun:
    """With the mean of the velocities at both ends: two calls a step, order 2."""

    name: ClassVar[str] = "heun"
    calls: ClassVar[int] = 2
    order: ClassVar[int] = 2

    def step(self, velocity: Velocity, x: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """``x + h/2 (v(t, x) + v(t + h, x + h v(t, x)))``."""
        width = end - start
        first = velocity(start, x)
        second = velocity(end, x + width * first)
        return x + (0.5 * width) * (first + second)


@dataclass(frozen=True, slots=True)
class RK4:
    """Kutta's 3/8 rule: four calls a step, order 4."""

    name: ClassVar[str] = "rk4"
    calls: ClassVar[int] = 4
    order: ClassVar[int] = 4

    def step(self, velocity: Velocity, x: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """The step, with stages at 0, 1/3, 2/3 and 1 and weights 1, 3, 3, 1 of 8."""
        width = end - start
        first = velocity(start, x)
        second = velocity(start + width / 3.0, x + width * first / 3.0)
        third = velocity(start + width * (2.0 / 3.0), x + width * (second - first / 3.0))
        fourth = velocity(end, x + width * (first - second + third))
        return x + (width * 0.125) * (first + 3.0 * (second + third) + fourth)


SOLVERS: dict[str, Solver] = {each.name: each for each in (Euler(), Midpoint(), Heun(), RK4())}


def choose_solver(solver: str | Solver) -> Solver:
    """A solver by its name, or the object itself.

    Raises:
        InputError: an unknown name, or something that takes no steps.
    """
    if isinstance(solver, str):
        if solver not in SOLVERS:
            known = ", ".join(map(repr, SOLVERS))
            raise InputError(f"solver is {solver!r}; expected one of {known}, or an object")
        return SOLVERS[solver]
    if not isinstance(solver, Solver) or isinstance(solver, type):  # pyright: ignore[reportUnnecessaryIsInstance] - what a caller passes
        raise InputError(
            f"solver is {solver!r}; expected heliodor.Euler(), Midpoint(), Heun() or RK4()"
        )
    return solver
