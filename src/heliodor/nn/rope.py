"""Rotary position embedding in the half-split layout (RoFormer; Gemma).

The first half of a head's channels holds the real parts and the second half the imaginary parts:
(x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin), with angle_j = position / base^(2j / head_dim).
"""

from __future__ import annotations

import torch
from torch import Tensor


def rotations(positions: Tensor, head_dim: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotations at the given positions.

    Args:
        positions: int64 [B T], counted from 0.
        head_dim: channels of one head, even.
        base: wave length base (10,000 in Gemma).

    Returns:
        ``(cos, sin)``, float32 [B 1 T head_dim/2]; the axis of one broadcasts over heads.
    """
    exponent = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device)
    inverse = 1.0 / (base ** (exponent / head_dim))
    angle = positions[:, None, :, None].float() * inverse
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate x [B H T D] by ``(cos, sin)`` [B 1 T D/2], in float32 -> the dtype of x."""
    real, imaginary = x.float().chunk(2, dim=-1)
    turned = torch.cat((real * cos - imaginary * sin, imaginary * cos + real * sin), dim=-1)
    return turned.to(x.dtype)
