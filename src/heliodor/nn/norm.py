"""Normalisation over the channels, in float32: Gemma's RMS norm, the plain one, layer norm."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heliodor.nn.fused import fused


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
        one_pass = fused(x)
        if one_pass is not None:
            return one_pass.norm(x, 1.0 + self.scale.float(), None, self.eps)
        x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)
        return x * (1.0 + self.scale.float())


class PlainRMSNorm(nn.Module):
    """``x * rsqrt(mean(x^2) + eps) * weight``, computed in float32 (arXiv 1910.07467, eq. 4)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor, factor: Tensor | None = None) -> Tensor:
        """Normalise, and multiply by one more factor without another pass over x.

        Args:
            x: [... D] of any float dtype.
            factor: float32, broadcasts with x; None for one.

        Returns:
            float32 [... D].
        """
        x, weight = x.float(), self._weight(factor)
        shrink = _shrink(x, self.eps)
        return x * shrink * weight if torch.is_grad_enabled() else (x * shrink).mul_(weight)

    def onto(self, residual: Tensor, x: Tensor, factor: Tensor) -> Tensor:
        """``residual + norm(x, factor)``, without new memory for what lies between.

        Args:
            residual: float32 [... D].
            x: [... D] of any float dtype; written over where gradients are off.
            factor: float32, broadcasts with x.

        Returns:
            float32 [... D].
        """
        x, weight = x.float(), self._weight(factor)
        shrink = _shrink(x, self.eps)
        scaled = x * shrink * weight if torch.is_grad_enabled() else x.mul_(shrink).mul_(weight)
        return residual + scaled

    def _weight(self, factor: Tensor | None) -> Tensor:
        weight = self.weight.float()
        return weight if factor is None else weight * factor


def _shrink(x: Tensor, eps: float) -> Tensor:
    """What makes the mean square of x [... D] one: float32 [... 1]."""
    return torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


class LayerNorm(nn.LayerNorm):
    """Layer normalisation in float32, whatever the weights are stored in."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name of the overridden method's argument
        """Input [... D] -> float32 [... D]."""
        weight, bias = self.weight.float(), self.bias.float()
        x, one_pass = input.float(), fused(input)
        if one_pass is not None:
            return one_pass.norm(x, weight, bias, self.eps)
        return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)
