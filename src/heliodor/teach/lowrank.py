"""Low-rank adapters (LoRA, arXiv 2106.09685): a frozen layer and a small product beside it.

    y = x W^T + b + (alpha / r) (x A^T) B^T      A [r in] random, B [out r] zero

With B zero a fresh adapter changes nothing; :func:`merge` adds it into W, after which the network
is an ordinary one again and gives the same.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn

from heliodor.errors import TrainingError
from heliodor.nn.linear import Linear

__all__ = ["PAINTER_LAYERS", "LowRank", "adapt", "merge"]

PAINTER_LAYERS = r"^layers\.\d+\.(attention\.(q|k|v|out)|mlp\.(gate|up|down))$"
"""The layers of a Next-DiT that are adapted: queries, keys, values and out, and the MLP."""


class LowRank(nn.Module):
    """A frozen linear layer with an adapter.

    Args:
        base: the layer; its weight no longer learns.
        rank: r, at least 1.
        alpha: the adapter counts alpha / r.
        generator: of random numbers for A.
    """

    def __init__(self, base: Linear, rank: int, alpha: float, generator: torch.Generator) -> None:
        super().__init__()
        self.base = base.requires_grad_(requires_grad=False)
        self.scale = alpha / rank
        out, width = base.weight.shape
        bound = 1.0 / math.sqrt(width)
        start = (2.0 * torch.rand(rank, width, generator=generator) - 1.0) * bound
        self.a = nn.Parameter(start)
        self.b = nn.Parameter(torch.zeros(out, rank))

    def forward(self, x: Tensor) -> Tensor:
        """X [... in] -> [... out]."""
        beside = nn.functional.linear(nn.functional.linear(x, self.a), self.b)
        return self.base(x) + self.scale * beside

    @torch.no_grad()
    def merged(self) -> Linear:
        """The layer with the adapter in its weight."""
        self.base.weight += self.scale * (self.b @ self.a)
        return self.base


def adapt(
    network: nn.Module,
    *,
    rank: int,
    alpha: float,
    seed: int,
    layers: str = PAINTER_LAYERS,
) -> list[str]:
    """Freeze a network and put adapters beside some of its layers.

    Args:
        network: changed in place.
        rank: of every adapter, at least 1.
        alpha: an adapter counts alpha / rank.
        seed: of the adapters' first weights.
        layers: pattern of the names of layers.

    Returns:
        The names of the layers that were adapted.

    Raises:
        TrainingError: no layer has such a name, or the rank is less than 1.
    """
    names = [
        name
        for name, part in _parts(network)
        if isinstance(part, Linear) and re.search(layers, name)
    ]
    if rank < 1 or not names:
        raise TrainingError(
            f"adapters of rank {rank} on {len(names)} layers named as {layers}: at least rank 1 "
            "and one layer are wanted"
        )
    network.requires_grad_(requires_grad=False)
    generator = torch.Generator().manual_seed(seed)
    for name in names:
        base = network.get_submodule(name)
        if isinstance(base, Linear):
            network.set_submodule(name, LowRank(base, rank, alpha, generator))
    return names


def _parts(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return cast("Iterator[tuple[str, nn.Module]]", network.named_modules())


def merge(network: nn.Module) -> None:
    """Add every adapter of a network into its layer, in place."""
    for name, part in list(_parts(network)):
        if isinstance(part, LowRank):
            network.set_submodule(name, part.merged())
