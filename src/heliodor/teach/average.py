"""The running average of a network's weights, which answers better than the last of them.

At a high rate the weights wander around what they have learned; their exponential average does not.
Lumina-T2X keeps one of 0.9999 (``lumina_next_t2i_mini/train.py``), and its released weights are it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from heliodor.errors import TrainingError

_EARLY = 10  # the first steps weigh as if the run had just begun: (1 + step) / (10 + step)


class Average:
    """An exponential average of the parameters that require gradients.

    Args:
        module: what is trained.
        decay: share of the average that a step leaves, in 0..1; less in the first steps, so that
            the average does not remember where training began.

    Raises:
        TrainingError: a decay out of range.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        if not 0.0 <= decay < 1.0:
            raise TrainingError(f"average={decay}: a share in 0..1, below 1, is wanted")
        self.decay = decay
        self._live = {n: p for n, p in module.named_parameters() if p.requires_grad}
        self._kept = {name: value.detach().clone() for name, value in self._live.items()}

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Take in the weights after a step counted from 0."""
        share = min(self.decay, (1 + step) / (_EARLY + step))
        for name, value in self._live.items():
            self._kept[name].lerp_(value, 1.0 - share)

    @torch.no_grad()
    def settle(self) -> None:
        """Give the network the average."""
        for name, value in self._live.items():
            value.copy_(self._kept[name])

    def tensors(self) -> dict[str, Tensor]:
        """The average by parameter name."""
        return dict(self._kept)

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take over what :meth:`tensors` gave.

        Raises:
            TrainingError: the names or shapes are those of another model, or there is none.
        """
        shapes = {name: value.shape for name, value in tensors.items()}
        if shapes != {name: value.shape for name, value in self._kept.items()}:
            raise TrainingError(
                f"the state holds an average of {len(tensors)} parameters, not of these "
                f"{len(self._kept)}: it belongs to another model, or to a run without an average"
            )
        for name, value in tensors.items():
            self._kept[name].copy_(value)
