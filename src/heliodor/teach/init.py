"""Fresh parameters for a network that is trained from nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn

from heliodor.models.pair import PoolingHead, SiglipPair, SiglipText
from heliodor.models.siglip import SiglipVision
from heliodor.nn.linear import Linear
from heliodor.nn.norm import RMSNorm

_DEEP = ("vision", "language")
_QUIET = 0.2  # of the pooling head's network, which would blur what was centred


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
    parts = dict(cast("Iterator[tuple[str, nn.Module]]", module.named_modules()))
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


@torch.no_grad()
def centre_pair(pair: SiglipPair, pixels: Tensor, tokens: Tensor) -> None:
    """Shift two biases so that the embeddings of a batch have mean zero, pictures and texts.

    Fresh towers map everything into a narrow cone: all cosines are near one, and the loss has to
    open the cone before it can learn anything else.

    Args:
        pair: freshly drawn.
        pixels: [B 3 H W] in -1..1, typical pictures.
        tokens: int64 [C T], typical texts.
    """
    pool = pair.pool
    features = pair.vision(pixels)
    pool.mlp.down.weight.mul_(_QUIET)
    pool.out.bias.sub_(pool(features).mean(0))
    pool.mlp.down.bias.sub_(pool(features).mean(0))
    pair.text.head.bias.sub_(pair.text(tokens).mean(0))
