"""Fresh parameters for a network that is trained from nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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


@torch.no_grad()
def order_rows(table: Tensor, first: int, count: int, seed: int, reach: float = 12.0) -> None:
    """Draw rows of an embedding table anew so that neighbours resemble each other.

    ``<loc0400>`` and ``<loc0404>`` then start out as nearly the same word: what is learnt about
    one place serves the places around it.

    Args:
        table: [V W], rows of length one; changed in place.
        first: the first of the rows.
        count: how many.
        seed: the same seed gives the same rows.
        reach: distance, in rows, over which the likeness fades.
    """
    generator = torch.Generator().manual_seed(seed)
    width = round(3 * reach)
    noise = torch.randn(count + 2 * width, table.shape[1], generator=generator)
    bell = torch.exp(-0.5 * (torch.arange(-width, width + 1) / reach) ** 2)
    smooth = (noise.unfold(0, 2 * width + 1, 1) * bell).sum(-1)
    smooth = F.normalize(smooth, dim=1)
    own = torch.randn(count, table.shape[1], generator=generator) * table.shape[1] ** -0.5
    rows = smooth + 0.3 * own
    table[first : first + count] = F.normalize(rows, dim=1)


@torch.no_grad()
def pattern_rows(table: Tensor, first: int, patterns: Tensor, seed: int) -> None:
    """Draw rows of an embedding table anew so that they resemble each other as patterns do.

    Args:
        table: [V W], rows of length one; changed in place.
        first: the first of the rows, one a pattern.
        patterns: [K D], for instance a code book.
        seed: of the directions that the patterns' components get.
    """
    generator = torch.Generator().manual_seed(seed)
    centred = patterns - patterns.mean(0)
    spread = centred @ torch.randn(patterns.shape[1], table.shape[1], generator=generator)
    spread = F.normalize(spread, dim=1)
    own = torch.randn(spread.shape, generator=generator) * table.shape[1] ** -0.5
    rows = spread + 0.5 * own
    table[first : first + len(patterns)] = F.normalize(rows, dim=1)


@torch.no_grad()
def wave_positions(model: SiglipVision, size: float = 0.3) -> None:
    """Start a tower's positions as waves across the picture: near patches have near positions.

    Args:
        model: a tower of a square grid.
        size: of a wave, in the units of a patch's embedding.
    """
    grid = math.isqrt(model.config.num_tokens)
    width = model.position.shape[1]
    line = torch.linspace(0.0, 1.0, grid)
    down, across = (axis.flatten() for axis in torch.meshgrid(line, line, indexing="ij"))
    waves: list[Tensor] = []
    for index in range(-(-width // 2)):
        angle = 2.39996 * (index % 64)  # the golden angle spreads directions evenly
        speed = math.pi * 2.0 ** (0.5 * (index % 8))
        phase = speed * (across * math.cos(angle) + down * math.sin(angle))
        waves += [phase.sin(), phase.cos()]
    model.position.copy_(size * torch.stack(waves[:width], -1))
