"""What training does between its products, as one pass each: offered from outside, or not at all.

Torch computes a norm, a GELU or a softmax with its backward pass in several passes over memory;
where a :class:`Fused` was offered, gradients are wanted and tensors are on the CPU, the layers of
this package ask it instead.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

__all__ = ["Fused", "fused", "offer"]


class Fused(Protocol):
    """Differentiable functions; activations are float32 or bfloat16, arithmetic is float32."""

    def gelu(self, x: Tensor, times: Tensor | None = None) -> Tensor:
        """The tanh form of GELU of x, multiplied by ``times`` of the same shape and dtype."""
        ...

    def softmax(self, scores: Tensor, mask: Tensor | None, scale: float) -> Tensor:
        """Weights of scores [B N T S] over S, which are multiplied by ``scale`` first.

        Where mask, bool [B 1 T S] or [B 1 1 S], is False the weight is 0.
        """
        ...

    def norm(self, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
        """Layer norm of x float32 [... D], or without bias RMS norm, times weight float32 [D].

        The result is bfloat16 under autocast to it, else float32.
        """
        ...


_offered: Fused | None = None


def offer(functions: Fused | None) -> None:
    """Let training on a CPU use these functions, in the whole process; None takes them back."""
    global _offered  # noqa: PLW0603 - one for the process, as torch's own settings
    _offered = functions


def fused(x: Tensor) -> Fused | None:
    """The functions to use on x, if any."""
    if _offered is None or not torch.is_grad_enabled() or x.device.type != "cpu":
        return None
    return _offered if x.dtype in (torch.float32, torch.bfloat16) else None
