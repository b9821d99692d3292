"""Fresh parameters for a network that is trained from nothing."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from heliodor.models.pair import PoolingHead, SiglipText
from heliodor.models.siglip import SiglipVision
from heliodor.nn.linear import Linear
from heliodor.nn.norm import RMSNorm

_DEEP = ("vision", "language")


def initialise(module: nn.Module, seed: int) -> None:
    """Draw every parameter anew.

    Linear layers keep the variance of what flows through them (fan-in normal), projections back
    into the residual stream of an image tower or decoder are narrowed by its depth, embedding
    tables have unit rows, norms and biases start neutral. A text tower is shallow and its answer
    is read at one position: narrowing would hide the words from it.

    Args:
        module: any network of ``heliodor.models``.
        seed: the same seed gives the same parameters.
    """
    generator = torch.Generator().manual_seed(seed)
    found: Any = module.named_modules()
    parts: dict[str, nn.Module] = dict(found)
    blocks = {root: sum(_inside(name, root, "attention") for name in parts) for root in _DEEP}
    with torch.no_grad():
        for name, part in parts.items():
            if isinstance(part, Linear | nn.Conv2d):
                root = next((r for r in _DEEP if _inside(name, r, ("out", "down"))), None)
                narrow = 1.0 if root is None else 1.0 / math.sqrt(2 * blocks[root])
                fan_in = part.weight[0].numel()
                _normal(part.weight, narrow / math.sqrt(fan_in), generator)
                if part.bias is not None:
                    part.bias.zero_()
            elif isinstance(part, nn.Embedding):
                _normal(part.weight, part.embedding_dim**-0.5, generator)
            elif isinstance(part, nn.LayerNorm):
                part.weight.fill_(1.0)
                part.bias.zero_()
            elif isinstance(part, RMSNorm):
                part.scale.zero_()
            elif isinstance(part, SiglipVision | SiglipText):
                _normal(part.position, part.position.shape[1] ** -0.5, generator)
            elif isinstance(part, PoolingHead):
                _normal(part.probe, part.probe.shape[-1] ** -0.5, generator)


def _inside(name: str, root: str, ends: str | tuple[str, ...]) -> bool:
    return name.startswith(f"{root}.") and name.endswith(ends)


def _normal(parameter: Tensor, std: float, generator: torch.Generator) -> None:
    parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
