"""Root-mean-square normalisation as Gemma defines it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """``x * rsqrt(mean(x^2) + eps) * (1 + scale)``, computed in float32.

    ``scale`` [D] is stored with the one removed, so that zero means "leave alone" (big_vision,
    ``models/ppp/gemma.py``; transformers stores the same number as ``weight``).
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """X [... D] of any float dtype -> float32 [... D]."""
        x = x.float()
        x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)
        return x * (1.0 + self.scale.float())
