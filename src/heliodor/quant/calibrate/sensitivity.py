"""Which layers are worth eight bits, when only some can have them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from heliodor.errors import InputError
from heliodor.quant.scheme import INT4, INT8, Scheme

__all__ = ["Sensitivity", "choose_schemes", "stored_bytes"]

_SIZES = {"uint8": 1, "bfloat16": 2, "float32": 4}


def stored_bytes(scheme: Scheme, rows: int, width: int) -> int:
    """Bytes in which a weight [rows width] is stored, scales included."""
    parts = scheme.parts(rows, width).values()
    return sum(_SIZES[dtype] * math.prod(shape) for dtype, shape in parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sensitivity:
    """What a layer's rounding does to what its block gives.

    Attributes:
        name: of the layer in the network.
        shape: of its weight, [N K].
        harm4: squared change of the block's output over its square, with this layer alone in int4.
        harm8: the same in int8.
    """

    name: str
    shape: tuple[int, int]
    harm4: float
    harm8: float

    @property
    def more_bytes(self) -> int:
        """What int8 costs beyond int4."""
        return stored_bytes(INT8, *self.shape) - stored_bytes(INT4, *self.shape)

    @property
    def gain(self) -> float:
        """Harm that each byte more prevents."""
        return (self.harm4 - self.harm8) / self.more_bytes


def choose_schemes(layers: Iterable[Sensitivity], budget: int) -> dict[str, Scheme]:
    """Int8 for the layers where its bytes prevent most harm, int4 for the others.

    Args:
        layers: all that share the budget.
        budget: bytes for all of their weights together.

    Raises:
        InputError: a budget below what int4 needs.
    """
    listed = list(layers)
    left = budget - sum(stored_bytes(INT4, *layer.shape) for layer in listed)
    if left < 0:
        raise InputError(
            f"a budget of {budget:,} bytes was given; these {len(listed)} layers take "
            f"{budget - left:,} when all of them have 4 bits: give at least so many"
        )
    schemes: dict[str, Scheme] = {}
    for layer in sorted(listed, key=lambda layer: (-layer.gain, layer.name)):
        promoted = layer.gain > 0 and layer.more_bytes <= left
        schemes[layer.name] = INT8 if promoted else INT4
        left -= layer.more_bytes if promoted else 0
    return {layer.name: schemes[layer.name] for layer in listed}
