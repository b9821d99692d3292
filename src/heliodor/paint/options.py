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
    """What :meth:`~heliodor.paint.painter.Painter.paint` takes beside the prompt; see there."""

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
