"""The options of painting, by name and type."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypedDict

from torch import Tensor

from heliodor.image import ImageSource
from heliodor.models.nextdit_rope import Scaling
from heliodor.paint.batch import Snapshot
from heliodor.paint.guidance import Guidance
from heliodor.paint.request import Size
from heliodor.paint.schedule import Grid
from heliodor.paint.skipping import StepSkipping
from heliodor.paint.solver import Solver

__all__ = ["PaintOptions"]


class PaintOptions(TypedDict, total=False):
    """What :meth:`~heliodor.paint.painter.Painter.paint` takes beside the prompt.

    Attributes:
        size: see there, as for the next four.
        seed: see there.
        negative: see there.
        latents: see there.
        image: see there.
        steps: as the grid's reference counts them; 30.
        solver: "midpoint", "euler", "heun", "rk4" or an object.
        grid: "official", "diffusers" or an object.
        shift: of the named grid; 4, and for diffusers' what the source says.
        guidance: a number, or a Guidance; 4.
        scaling: of positions: "released", "paper", "diffusers", "off" or an object.
        proportional: whether attention grows sharper with the number of patches; True.
        skipping: the threshold of an approximation that leaves steps out; None.
        strength: how much of a picture goes that is painted over; 0.6.
        batch_size: pictures in one call of the transformer; 4.
        progress: told after each step.
        cancelled: asked before each step.
    """

    size: Size | Sequence[Size] | None
    seed: int | Sequence[int] | None
    negative: str | Sequence[str]
    latents: Tensor | None
    image: ImageSource | Sequence[ImageSource] | None
    steps: int
    solver: str | Solver
    grid: str | Grid
    shift: float | None
    guidance: float | Guidance
    scaling: str | Scaling
    proportional: bool
    skipping: float | StepSkipping | None
    strength: float | None
    batch_size: int
    progress: Callable[[Snapshot], None] | None
    cancelled: Callable[[], bool] | None
