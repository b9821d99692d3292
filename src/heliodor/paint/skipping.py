"""Steps that go on with an old velocity: an approximation, off unless it is asked for.

Where a path is nearly straight, the next velocity is nearly the last one. TeaCache (arXiv
2411.19108) measures the change between two calls at the first block's input, weighs it by a
polynomial that was fitted to one model, and reuses the last residual until the changes add up to a
threshold. This is its idea without the fit: the change is that of the latents themselves, and what
is reused is the mean velocity of the last step that was computed. A skipped step costs nothing,
whatever the solver.

How far the result is off depends on the model and the picture; docs/guides/paint.md says how to
measure it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from heliodor.errors import InputError

__all__ = ["StepSkipping"]


@dataclass(frozen=True, slots=True)
class StepSkipping:
    """Skip while the latents have changed by less than a threshold since the last computed step.

    The first and the last step are always computed.

    Attributes:
        threshold: mean absolute change of the latents, step by step and relative to their mean
            absolute value, that may add up before a step is computed again; from 0, which skips
            nothing.
    """

    threshold: float = 0.1

    def __post_init__(self) -> None:
        """Refuse a threshold that is no distance."""
        if not (math.isfinite(self.threshold) and self.threshold >= 0):
            raise InputError(f"threshold is {self.threshold}; expected a number from 0")

    def begin(self, steps: int) -> Skipping:
        """The state of one path of so many steps."""
        return Skipping(self.threshold, steps)


class Skipping:
    """How far one path has gone on without a new velocity."""

    def __init__(self, threshold: float, steps: int) -> None:
        self._threshold = threshold
        self._left = steps
        self._change = 0.0
        self._last: Tensor | None = None
        self._velocity: Tensor | None = None

    def reusable(self, x: Tensor) -> Tensor | None:
        """The velocity to go on with from x, or None where it must be computed; asked once a step.

        Rows of a batch go together: the one that changes most decides.
        """
        self._left -= 1
        if self._last is not None:
            self._change += _relative_change(self._last, x)
        self._last = x
        if self._velocity is None or self._left == 0 or self._change >= self._threshold:
            self._change = 0.0
            return None
        return self._velocity

    def remember(self, velocity: Tensor) -> None:
        """The mean velocity of the step that was computed."""
        self._velocity = velocity


def _relative_change(before: Tensor, after: Tensor) -> float:
    """Of each row the mean absolute change by the mean absolute value; the largest of them."""
    change = (after - before).abs().flatten(1).mean(1)
    size = before.abs().flatten(1).mean(1).clamp_min(1e-12)
    return float((change / size).max())
