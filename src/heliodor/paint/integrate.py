"""From noise to a picture's latents: the loop that a solver's steps make.

Between two steps it can be looked at and stopped; a step whose result is no number stops it too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from heliodor.errors import CancelledError, PaintingError
from heliodor.paint.skipping import StepSkipping
from heliodor.paint.solver import Solver, Velocity

__all__ = ["Path", "Progress", "Watch", "integrate"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Progress:
    """How far a painting is, after a step.

    Attributes:
        step: steps done, from 1.
        steps: steps in all.
        time: where the path is, 0 noise and 1 the picture.
        seconds: since the first step began.
        latents: float32 [B C H W], as they are now.
        estimate: float32 [B C H W], where the last step's mean velocity would lead in one go: what
            a preview shows.
        skipped: steps so far that went on with an old velocity.
    """

    step: int
    steps: int
    time: float
    seconds: float
    latents: Tensor = field(repr=False)
    estimate: Tensor = field(repr=False)
    skipped: int = 0


Watch = Callable[[Progress], None]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Path:
    """Where it came to.

    Attributes:
        latents: float32 [B C H W] at time 1.
        steps: steps that were made.
        skipped: how many of them went on with an old velocity.
    """

    latents: Tensor = field(repr=False)
    steps: int
    skipped: int


def integrate(
    velocity: Velocity,
    x: Tensor,
    times: Tensor,
    solver: Solver,
    *,
    skipping: StepSkipping | None = None,
    watch: Watch | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Path:
    """Follow a velocity from the first of the times to the last.

    Args:
        velocity: (time [], x) -> dx/dt.
        x: [B C H W] at ``times[0]``.
        times: [points], rising.
        solver: how a step is made.
        skipping: which steps go on with an old velocity; None for none.
        watch: told after every step.
        cancelled: asked before every step.

    Raises:
        CancelledError: ``cancelled`` said so.
        PaintingError: a step came to NaN or infinity.
    """
    began = time.monotonic()
    state = None if skipping is None else skipping.begin(len(times) - 1)
    steps, skipped = len(times) - 1, 0
    for number, (start, end) in enumerate(pairwise(times), start=1):
        if cancelled is not None and cancelled():
            raise CancelledError(f"painting was stopped after {number - 1} of {steps} steps")
        before, width = x, end - start
        old = None if state is None else state.reusable(x)
        if old is None:
            x = solver.step(velocity, x, start, end)
            if state is not None:
                state.remember((x - before) / width)
        else:
            x = x + width * old
            skipped += 1
        check_finite(x, f"step {number} of {steps} (time {float(end):.4f})")
        if watch is not None:
            estimate = x + (1.0 - end) * ((x - before) / width)
            watch(
                Progress(
                    step=number,
                    steps=steps,
                    time=float(end),
                    seconds=time.monotonic() - began,
                    latents=x,
                    estimate=estimate,
                    skipped=skipped,
                )
            )
    return Path(latents=x, steps=steps, skipped=skipped)


def check_finite(x: Tensor, where: str) -> None:
    """Refuse latents that are no numbers, before they become a black picture.

    Raises:
        PaintingError: NaN or infinity.
    """
    if not bool(torch.isfinite(x).all()):
        share = 1.0 - float(torch.isfinite(x).float().mean())
        raise PaintingError(f"{where} came to NaN or infinity in {share:.0%} of the latents")
