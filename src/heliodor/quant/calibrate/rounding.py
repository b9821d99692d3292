"""Rounding a weight column by column, each column making up for the errors of those before.

The error that counts is that of the layer's outputs, ``d H d^T`` for a row d of the difference and
the second moments H of the inputs. After a column is rounded, the least of it that the columns not
yet rounded can leave is known in closed form; it takes a Cholesky factor of ``H^-1``.
Source: GPTQ, arXiv 2210.17323, algorithm 1. Large groups of columns are brought up to date at once.
Where the plain nearest codes of a row do better on H than the result, they are kept: never worse.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from heliodor.errors import ConfigError
from heliodor.quant.calibrate.codes import Codes, fit_scales, lowest, nearest
from heliodor.quant.calibrate.statistics import Statistics
from heliodor.quant.scheme import GROUP, Scheme

__all__ = ["Rounding", "round_weight"]

_PANEL = 2 * GROUP  # columns after which the later ones are brought up to date
_TRIES = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Rounding:
    """How columns are rounded.

    Attributes:
        damping: added to the diagonal of the second moments, as a share of its mean, 0..1. Without
            it, channels that hardly vary on the pictures would be trusted to make up for anything.
        ordered: whether columns come in the order of their importance, the most important first;
            scales are then chosen before, not as the columns come.
    """

    damping: float = 0.05
    ordered: bool = True

    def __post_init__(self) -> None:
        """Refuse a share that is none."""
        if not 0 < self.damping <= 1:
            raise ConfigError(f"damping is {self.damping}; expected a share above 0, at most 1")


def round_weight(
    weight: Tensor, scheme: Scheme, statistics: Statistics, how: Rounding | None
) -> Codes:
    """Codes of least error on what went into the layer.

    Args:
        weight: float32 [N K].
        scheme: how it will be stored.
        statistics: of the rows that went into the layer.
        how: None takes the nearest codes.
    """
    plain = nearest(weight, scheme, statistics.importance)
    if how is None or statistics.rows == 0:
        return plain
    made = _made_up(weight, scheme, statistics, how, plain)
    before = statistics.error(plain.values() - weight)
    after = statistics.error(made.values() - weight)
    better = (after < before)[:, None]
    return Codes(
        scheme=scheme,
        codes=torch.where(better, made.codes, plain.codes),
        scale=torch.where(better, made.scale, plain.scale),
    )


def _made_up(
    weight: Tensor, scheme: Scheme, statistics: Statistics, how: Rounding, plain: Codes
) -> Codes:
    """All spans one after the other; they do not know each other."""
    codes, scale = torch.empty_like(plain.codes), plain.scale.clone()
    searched = not how.ordered and scheme.group is not None
    importance = statistics.importance
    for (start, end), moments in zip(statistics.spans, statistics.moments, strict=True):
        order = (
            moments.diagonal().argsort(descending=True, stable=True)
            if how.ordered
            else torch.arange(end - start)
        )
        factor = _factor(moments, order, how.damping)
        if factor is None:  # second moments that say nothing
            codes[:, start:end] = plain.codes[:, start:end]
            continue
        columns = _Columns(
            values=weight[:, start:end].T[order].contiguous(),
            places=order + start,
            scale=scale,
            scheme=scheme,
            importance=importance if searched else None,
        )
        codes[:, columns.places] = columns.round(factor).T
    return Codes(scheme=scheme, codes=codes, scale=scale)


def _factor(moments: Tensor, order: Tensor, damping: float) -> Tensor | None:
    """The upper Cholesky factor of the inverse of the damped moments, float32 [k k].

    Where they are too near to singular, they are damped tenfold, some times.
    """
    mean = float(moments.diagonal().mean())
    if not mean > 0:
        return None
    for attempt in range(_TRIES):
        damped = moments[order][:, order].double()
        damped.diagonal().add_(damping * 10**attempt * mean)
        lower = _cholesky(damped)
        del damped
        if lower is None:
            continue
        upper = _cholesky(torch.cholesky_inverse(lower), upper=True)
        if upper is not None:
            return upper.float()
    return None


def _cholesky(matrix: Tensor, *, upper: bool = False) -> Tensor | None:
    """The factor of a matrix; None if it has none."""
    try:
        return torch.linalg.cholesky(matrix, upper=upper)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - torch's stubs
    except torch.linalg.LinAlgError:  # pyright: ignore[reportUnknownMemberType, reportPrivateImportUsage] - public, its stubs forget it
        return None


@dataclass(kw_only=True, slots=True, eq=False)
class _Columns:
    """The columns of a span in the order in which they are rounded.

    Attributes:
        values: float32 [k N], what is still to be rounded; changes as columns are rounded.
        places: int64 [k], each one's channel in the whole weight.
        scale: float32 [N G], of the whole weight.
        scheme: how it will be stored.
        importance: [K] where scales are searched as the columns come, None where they stand.
    """

    values: Tensor
    places: Tensor
    scale: Tensor
    scheme: Scheme
    importance: Tensor | None

    def round(self, factor: Tensor) -> Tensor:
        """Codes int8 [k N] in the order of the columns; ``factor`` as :func:`_factor` gives it."""
        codes = torch.empty(self.values.shape, dtype=torch.int8)
        count = self.values.shape[0]
        for start in range(0, count, _PANEL):
            end = min(start + _PANEL, count)
            errors = self._round_panel(factor[start:end, start:end], start, end, codes)
            if end < count:
                self.values[end:].addmm_(factor[start:end, end:].T, errors, alpha=-1)
        return codes

    def _round_panel(self, factor: Tensor, start: int, end: int, codes: Tensor) -> Tensor:
        """Round columns start..end-1; what each leaves over, [columns N]."""
        panel = self.values[start:end]
        errors = torch.empty_like(panel)
        for index in range(end - start):
            place = int(self.places[start + index])
            if self.importance is not None and place % GROUP == 0:
                self._search(panel[index : index + GROUP], place)
            scale = self.scale[:, 0 if self.scheme.group is None else place // GROUP]
            code = (panel[index] / scale).round_()
            code.clamp_(-lowest(self.scheme), self.scheme.limit)
            codes[start + index] = code.to(torch.int8)
            torch.sub(panel[index], code.mul_(scale), out=errors[index])
            errors[index] /= factor[index, index]
            panel[index + 1 :].addr_(factor[index, index + 1 :], errors[index], alpha=-1)
        return errors

    def _search(self, group: Tensor, place: int) -> None:
        """Scales of the group of columns that begins here, for what they have become."""
        assert self.importance is not None
        importance = self.importance[place : place + group.shape[0]]
        found = fit_scales(group.T.contiguous(), self.scheme, importance)
        self.scale[:, place // GROUP] = found[:, 0]
