"""Seeds and the noise that they make, one generator a picture.

A picture's noise depends on its seed and its size, not on what else is painted with it. It is drawn
in float32 on the CPU, so that it is the same on every device.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import torch
from torch import Tensor

from heliodor.errors import InputError

__all__ = ["MOST", "choose_seeds", "draw", "generator"]

MOST = 2**63 - 1
"""The largest seed."""

_DRAWN_BITS = 32  # of a seed that nobody gave: easy to type again


def choose_seeds(seed: int | Sequence[int] | None, count: int) -> list[int]:
    """A seed for each of ``count`` pictures.

    Args:
        seed: of the first picture, the next ones counting up; one for each; or None for any.
        count: how many.

    Raises:
        InputError: no whole number, outside 0..2**63-1 for any of the pictures, or as many seeds
            as there are not pictures.
    """
    if seed is None:
        seed = secrets.randbits(_DRAWN_BITS)
    if isinstance(seed, Sequence):
        seeds: list[int] = list(seed)
        if len(seeds) != count:
            raise InputError(f"{len(seeds)} seeds came for {count} pictures: give one for each")
    else:
        seeds = [seed + offset for offset in range(count)] if _whole(seed) else [seed]
    for each in seeds:
        if not _whole(each) or not 0 <= each <= MOST:
            raise InputError(f"a seed is {each!r}; expected a whole number from 0 to 2**63 - 1")
    return seeds


def generator(seed: int) -> torch.Generator:
    """The source of one picture's random numbers."""
    return torch.Generator("cpu").manual_seed(seed)


def draw(shape: tuple[int, ...], sources: Sequence[torch.Generator]) -> Tensor:
    """Standard normal float32 [B *shape], row i from source i."""
    return torch.stack([torch.randn(shape, generator=source) for source in sources])


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
