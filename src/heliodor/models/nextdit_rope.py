"""Rotary positions in two axes, and the rules that stretch them over pictures larger than trained.

Channels 2j and 2j+1 of a head are one complex number. Number 2i is turned by ``row * f_i`` and
number 2i+1 by ``column * f_i``: the axes take turns, they do not lie in two halves. Rows and
columns are those of patches, from 0, and

    f_i = base^(-4i / H),  i = 0 .. H/4 - 1

unless a rule says otherwise. H head_dim. Source: arXiv 2406.18583; ``precompute_freqs_cis`` in
Lumina-T2X ``lumina_next_t2i/models/model.py``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from heliodor.errors import InputError


class Scaling(Protocol):
    """How frequencies depend on the time in 0..1 and on how large a picture is.

    The ratio of a picture is its side over the trained one: sqrt(area / trained area).
    """

    def stage(self, t: float) -> float:
        """What frequencies depend on of the time: equal stages have equal frequencies."""
        ...

    def frequencies(self, stage: float, *, ratio: float, head_dim: int, base: float) -> Tensor:
        """The frequencies of one axis at a stage, float32 [H/4]."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Unscaled:
    """Frequencies as trained, at every size."""

    def stage(self, t: float) -> float:  # noqa: ARG002 - the face is that of every rule
        """One stage."""
        return 0.0

    def frequencies(self, stage: float, *, ratio: float, head_dim: int, base: float) -> Tensor:  # noqa: ARG002 - the face is that of every rule
        """The frequencies of one axis, float32 [H/4]."""
        return _frequencies(head_dim, base)


@dataclass(frozen=True, kw_only=True, slots=True)
class Watershed:
    """The released rule: positions are interpolated before a moment, the base grows from it on.

    With r the ratio, ``f_i / r`` while t < threshold, and then ``(base r)^(-4i / H)``. The first
    arranges the whole, the second draws detail. Note that the base is multiplied by r itself, not
    by ``r^(H / (H - 2))`` as in the NTK rule that it is named after.

    The released code stretches only what is declared an extrapolation, which are the sizes that
    have more area than trained. diffusers stretches smaller pictures too; see :data:`DIFFUSERS`.

    Attributes:
        threshold: the moment, 0..1.
        stretch_small: whether a ratio below one counts, rather than being taken for one.
        factor: r, whatever the size of the picture; None to go by its size.
    """

    threshold: float = 0.3
    stretch_small: bool = False
    factor: float | None = None

    def __post_init__(self) -> None:
        """Refuse a factor that no picture can have."""
        _check_factor(self.factor)

    def stage(self, t: float) -> float:
        """0 before the moment, 1 from it on."""
        return 0.0 if t < self.threshold else 1.0

    def frequencies(self, stage: float, *, ratio: float, head_dim: int, base: float) -> Tensor:
        """The frequencies of one axis, float32 [H/4]."""
        r = ratio if self.stretch_small else max(1.0, ratio)
        r = r if self.factor is None else self.factor
        if stage < 1.0:
            return _frequencies(head_dim, base) / r
        return _frequencies(head_dim, base * r)


@dataclass(frozen=True, kw_only=True, slots=True)
class TimeAware:
    """The paper's rule: from interpolation at noise to a larger base at the picture, smoothly.

    With r the ratio and ``d_t = (H - 1) t + 1`` the base is ``base r^(H / d_t)``, and no frequency
    falls below ``f_i / r`` (arXiv 2406.18583, section 2.3). The tables differ at every step.

    Attributes:
        factor: r, whatever the size of the picture; None for its ratio, at least one.
    """

    factor: float | None = None

    def __post_init__(self) -> None:
        """Refuse a factor that no picture can have."""
        _check_factor(self.factor)

    def stage(self, t: float) -> float:
        """The time itself."""
        return t

    def frequencies(self, stage: float, *, ratio: float, head_dim: int, base: float) -> Tensor:
        """The frequencies of one axis, float32 [H/4]."""
        r = max(1.0, ratio) if self.factor is None else self.factor
        turned = (head_dim - 1) * stage + 1.0
        larger = math.log(base) + head_dim / turned * math.log(r)  # the base itself would overflow
        grown = torch.exp(-larger * _exponents(head_dim).double()).float()
        return torch.maximum(grown, _frequencies(head_dim, base) / r)


def turns(rows: int, columns: int, frequencies: Tensor) -> Tensor:
    """The unit numbers that turn each patch of a picture: complex64 [rows * columns, H/2].

    Args:
        rows: of patches.
        columns: of patches.
        frequencies: of one axis, float32 [H/4].
    """
    count = frequencies.shape[0]
    places = torch.arange(max(rows, columns), dtype=torch.float32, device=frequencies.device)
    angles = torch.outer(places, frequencies)
    turned = torch.polar(torch.ones_like(angles), angles)
    down = turned[:rows, None, :, None].expand(rows, columns, count, 1)
    across = turned[None, :columns, :, None].expand(rows, columns, count, 1)
    return torch.cat((down, across), dim=-1).reshape(rows * columns, 2 * count)


def rotate_pairs(x: Tensor, turn: Tensor) -> Tensor:
    """Turn neighbouring channels as complex numbers, in float32.

    Args:
        x: [B T N H], of any float dtype.
        turn: complex64 [B T 1 H/2] or [1 T 1 H/2].

    Returns:
        float32 [B T N H].
    """
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * turn).flatten(-2)


def _exponents(head_dim: int) -> Tensor:
    return torch.arange(0, head_dim, 4, dtype=torch.float32) / head_dim


def _frequencies(head_dim: int, base: float) -> Tensor:
    return 1.0 / base ** _exponents(head_dim)


def _check_factor(factor: float | None) -> None:
    if factor is not None and not 0.0 < factor < math.inf:
        raise InputError(
            f"factor is {factor}; expected a number above 0, or None for the picture's"
        )


RELEASED = Watershed()
"""What the released models were shown with."""

DIFFUSERS = Watershed(threshold=1.0, stretch_small=True)
"""What diffusers does unless told otherwise: interpolation to the end, smaller pictures too."""
