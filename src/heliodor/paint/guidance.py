"""Classifier-free guidance: away from what the model would paint without the prompt.

``v = v_without + s (v_with - v_without)``, in the published code for the first three of four
channels only; the last keeps ``v_with``. That is a remainder of DiT's code, but the published
defaults are tuned with it, and guiding all four is a visible change.

Source: Lumina-T2X ``models/model.py``, ``forward_with_cfg``; arXiv 2207.12598, 2404.07724 for the
interval.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from heliodor.errors import InputError

__all__ = ["Guidance", "choose_guidance"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Guidance:
    """How far, which channels, and when.

    Attributes:
        scale: s, from 0; 1 is the prompt's velocity as it is, at half the work.
        channels: how many channels are guided, counted from the first; None for all of them.
        interval: times from the first up to, but not, the second at which it is on; elsewhere the
            prompt's velocity stands as it is, at half the work. A second of 1 has no end.
    """

    scale: float = 4.0
    channels: int | None = 3
    interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        """Refuse what would guide nothing, or backwards."""
        if not (math.isfinite(self.scale) and self.scale >= 0):
            raise InputError(f"guidance is {self.scale}; expected a number from 0")
        if self.channels is not None and self.channels < 1:
            raise InputError(f"channels is {self.channels}; expected at least 1, or None for all")
        first, last = self.interval
        if not 0.0 <= first < last <= 1.0:
            raise InputError(
                f"the guidance interval is {first} to {last}; expected two times in 0..1, the "
                "first below the second"
            )

    def active(self, time: float) -> bool:
        """Whether both velocities are needed at a time."""
        first, last = self.interval
        return self.scale != 1.0 and first <= time and (time < last or last == 1.0)

    @property
    def ever(self) -> bool:
        """Whether both velocities are needed at any time."""
        return self.scale != 1.0

    @property
    def always(self) -> bool:
        """Whether both velocities are needed at every time."""
        return self.ever and self.interval == (0.0, 1.0)

    def combine(self, with_prompt: Tensor, without: Tensor) -> Tensor:
        """Both velocities [B C H W] -> the guided one, of the same shape."""
        count = with_prompt.shape[1] if self.channels is None else self.channels
        conditioned, free = with_prompt[:, :count], without[:, :count]
        guided = free + self.scale * (conditioned - free)
        return torch.cat((guided, with_prompt[:, count:]), dim=1)


def choose_guidance(guidance: float | Guidance) -> Guidance:
    """A scale on three channels, or the object itself.

    Raises:
        InputError: neither, or a scale that cannot be used.
    """
    if isinstance(guidance, Guidance):
        return guidance
    if isinstance(guidance, bool) or not isinstance(guidance, int | float):  # pyright: ignore[reportUnnecessaryIsInstance] - what a caller passes
        raise InputError(f"guidance is {guidance!r}; expected a number or a Guidance")
    return Guidance(scale=float(guidance))
