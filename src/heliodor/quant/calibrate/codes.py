"""Codes of a weight, and scales searched for the least error that matters.

N output channels, K input channels, G groups along K (one for int8).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from heliodor.errors import InputError
from heliodor.quant.pack import pack
from heliodor.quant.scheme import Scheme

__all__ = ["Codes", "fit_scales", "nearest", "round_to"]

_ENDS4 = (-8.0, -7.4, -6.8, -8.6, -9.6, -11.0, 7.0, 7.6, 8.6, 9.8)
"""Codes that a group's largest weight may get, beyond -8 and 7 by being cut off. A scale may be
negative: there are codes to -8 and only to 7."""
_ENDS8 = (127.0, 130.0, 134.0, 139.0, 146.0, 155.0)
_CHUNK = 2**20  # weights whose scales are searched at a time


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Codes:
    """A weight in few bits.

    Attributes:
        scheme: how it is stored.
        codes: int8 [N K].
        scale: float32 [N G]; for int4 numbers that bfloat16 holds.
    """

    scheme: Scheme
    codes: Tensor
    scale: Tensor

    def values(self) -> Tensor:
        """What the codes stand for, float32 [N K]."""
        return self.codes.float().mul_(_spread(self.scale, self.scheme, self.codes.shape[1]))

    def parts(self) -> dict[str, Tensor]:
        """Packed, as :meth:`~heliodor.quant.scheme.Scheme.parts` describes it."""
        whole = self.scheme.group is None
        scale = self.scale[:, 0] if whole else self.scale
        return pack(self.codes.contiguous(), scale.contiguous(), self.scheme)


def nearest(weight: Tensor, scheme: Scheme, importance: Tensor | None = None) -> Codes:
    """Each weight's nearest code under searched scales; arguments as :func:`fit_scales` takes."""
    scale = fit_scales(weight, scheme, importance)
    return Codes(scheme=scheme, codes=round_to(weight, scale, scheme), scale=scale)


def round_to(weight: Tensor, scale: Tensor, scheme: Scheme) -> Tensor:
    """The nearest codes under given scales: float32 [N K], [N G] -> int8 [N K]."""
    wide = _spread(scale, scheme, weight.shape[1])
    return (weight / wide).round_().clamp_(-lowest(scheme), scheme.limit).to(torch.int8)


def lowest(scheme: Scheme) -> int:
    """How far codes go below zero: 127 for int8, 8 for int4."""
    return 127 if scheme.bits == 8 else 8


def fit_scales(weight: Tensor, scheme: Scheme, importance: Tensor | None = None) -> Tensor:
    """Scales of least squared error, each weight's square weighed by its channel's importance.

    Several codes are tried for the largest weight of each group, also codes that do not exist, by
    which it is cut off. The best scale is then fitted to its codes by least squares.

    Args:
        weight: float32 [N K].
        scheme: how it will be stored.
        importance: float32 [K], such as ``mean x^2``; None weighs all channels alike.

    Returns:
        float32 [N G].

    Raises:
        InputError: a weight that is NaN or infinite.
    """
    rows, width = weight.shape
    size = width if scheme.group is None else scheme.group
    short = -width % size
    weighing = torch.ones(width) if importance is None else importance
    weighing = F.pad(weighing, (0, short)).view(-1, size)
    found: list[Tensor] = []
    step = max(1, _CHUNK // max(1, width))
    for start in range(0, rows, step):
        groups = F.pad(weight[start : start + step], (0, short)).view(-1, weighing.shape[0], size)
        found.append(_fit(groups, weighing, scheme))
    return torch.cat(found)


def _fit(groups: Tensor, weighing: Tensor, scheme: Scheme) -> Tensor:
    """Groups [n G size], weighing [G size] -> scales [n G]."""
    extreme = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))
    if not bool(extreme.isfinite().all()):
        raise InputError(
            "a weight is NaN or infinite and has no code: the checkpoint is broken, or of a type "
            "that was too narrow for it"
        )
    if scheme.bits == 8:
        extreme = extreme.abs()
    best, least = extreme, torch.full_like(extreme, torch.inf)
    for end in _ENDS8 if scheme.bits == 8 else _ENDS4:
        scale = _storable(extreme / end, scheme)
        error = _error(groups, scale, weighing, scheme)
        better = error < least
        best, least = torch.where(better, scale, best), torch.where(better, error, least)
    codes = _codes(groups, best, scheme)
    weighed = codes * weighing
    fitted = (weighed * groups).sum(-1, keepdim=True) / (weighed * codes).sum(-1, keepdim=True)
    fitted = _storable(torch.where(fitted.isfinite(), fitted, best), scheme)
    return torch.where(_error(groups, fitted, weighing, scheme) < least, fitted, best)[..., 0]


def _codes(groups: Tensor, scale: Tensor, scheme: Scheme) -> Tensor:
    return (groups / scale).round_().clamp_(-lowest(scheme), scheme.limit)


def _error(groups: Tensor, scale: Tensor, weighing: Tensor, scheme: Scheme) -> Tensor:
    """Weighed squared error of each group, [n G size], [n G 1] -> [n G 1]."""
    off = _codes(groups, scale, scheme).mul_(scale).sub_(groups).square_()
    return off.mul_(weighing).sum(-1, keepdim=True)


def _storable(scale: Tensor, scheme: Scheme) -> Tensor:
    """The nearest scale that the scheme stores; 1 for a group of zeros."""
    kept = scale if scheme.bits == 8 else scale.to(torch.bfloat16).float()
    return torch.where(kept == 0, 1.0, kept)


def _spread(scale: Tensor, scheme: Scheme, width: int) -> Tensor:
    """The scale of every weight, [N G] -> [N K], or [N 1] which broadcasts."""
    if scheme.group is None:
        return scale
    return scale.repeat_interleave(scheme.group, dim=1)[:, :width]
