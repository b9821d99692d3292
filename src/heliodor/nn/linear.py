"""A linear layer whose storage and arithmetic may differ in precision.

Weights rest in whatever dtype they were loaded in. On a CPU, bfloat16 and float16 weights are
widened to float32 for the product: few processors have units for them, and the result then equals
the float32 model on the same rounded weights. On other devices the product runs in the stored
dtype.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_SAFE = 2048.0  # largest magnitude let into a float16 product: 2048 * a row of weights stays finite


def arithmetic(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype in which a product with weights of ``dtype`` is computed on ``device``."""
    if device.type == "cpu" and dtype in (torch.bfloat16, torch.float16):
        return torch.float32
    return dtype


class Linear(nn.Linear):
    """``y = x W^T + b``: x [... in] of any float dtype -> y [... out] in the arithmetic dtype."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the overridden method's name
        """Input [... in] -> [... out]."""
        dtype = arithmetic(self.weight.dtype, self.weight.device)
        bias = self.bias
        if bias is not None:  # pyright: ignore[reportUnnecessaryComparison] - a layer may have none
            bias = bias.to(dtype)
        return F.linear(input.to(dtype), self.weight.to(dtype), bias)


def wide_linear(layer: Linear, x: Tensor) -> Tensor:
    """A bias-free ``layer`` on inputs that may exceed float16: x [... in] -> float32 [... out].

    Gemma's gated products reach magnitudes beyond 65,504. Where the arithmetic is float16, each row
    is scaled into range before the product and back after it, in float32; elsewhere this is the
    plain layer.
    """
    if arithmetic(layer.weight.dtype, layer.weight.device) != torch.float16:
        return layer(x)
    x = x.float()
    scale = (x.abs().amax(-1, keepdim=True) / _SAFE).clamp_min(1.0)
    return layer(x / scale).float() * scale
