"""What went into a linear layer, summed up while the pictures pass.

K input channels. Rounding needs the second moments ``sum x x^T`` [K K] of the rows x. Beyond
``WIDEST`` channels they are kept for spans of channels alone, as if channels of different spans
were independent: with 16,384 channels that is 256 MiB in place of 1 GiB, and a column then makes up
for the error of the columns of its own span only.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from heliodor.errors import InputError
from heliodor.quant.scheme import GROUP

__all__ = ["WIDEST", "Statistics", "spans"]

WIDEST = 4096
"""Channels whose second moments are kept as one matrix: 64 MiB."""


def spans(width: int, widest: int = WIDEST) -> tuple[tuple[int, int], ...]:
    """Spans (first, end) of channels, as even as whole groups allow.

    Args:
        width: K.
        widest: channels of a span, at least a group.
    """
    count = -(-width // max(widest, GROUP))
    step = -(-width // (count * GROUP)) * GROUP
    return tuple((start, min(start + step, width)) for start in range(0, width, step))


@dataclass(kw_only=True, slots=True)
class Statistics:
    """Sums over the rows that went into a layer.

    Attributes:
        width: K.
        spans: as :func:`spans` gives them.
        moments: for each span ``sum x x^T`` over its channels, float32 [k k].
        magnitude: ``sum |x|``, float32 [K].
        rows: how many rows, each counted by its weight.
        kept: some of the rows as they were, float32 [r K] each.
    """

    width: int
    spans: tuple[tuple[int, int], ...]
    moments: list[Tensor]
    magnitude: Tensor
    rows: float = 0.0
    kept: list[Tensor] = field(default_factory=list[Tensor])

    @classmethod
    def empty(cls, width: int, widest: int = WIDEST) -> Statistics:
        """Before the first row; arguments as :func:`spans` takes them."""
        parts = spans(width, widest)
        return cls(
            width=width,
            spans=parts,
            moments=[torch.zeros(end - start, end - start) for start, end in parts],
            magnitude=torch.zeros(width),
        )

    def add(self, x: Tensor, keep: int = 0, weights: Tensor | None = None) -> None:
        """Take rows in.

        Args:
            x: float32 [... K].
            keep: how many of them to keep as they are, evenly spaced by weight.
            weights: float32, one for each row, above zero: how often it counts; None for once.

        Raises:
            InputError: rows that are NaN or infinite.
        """
        rows = x.detach().reshape(-1, self.width).float()
        counts = rows.new_ones(rows.shape[0]) if weights is None else weights
        added = counts @ rows.abs()
        if not bool(added.isfinite().all()):
            raise InputError(
                "an activation is NaN or infinite, so that nothing can be calibrated: the model "
                "is broken on one of the pictures, or its weights are"
            )
        self.magnitude += added
        self.rows += float(counts.sum())
        for (start, end), moments in zip(self.spans, self.moments, strict=True):
            part = rows[:, start:end]
            moments.addmm_(part.T, part if weights is None else part * counts[:, None])
        if keep > 0:
            reached = counts.cumsum(0)
            wanted = torch.linspace(0, float(reached[-1]), min(keep, rows.shape[0]))
            places = torch.searchsorted(reached, wanted).clamp_max_(rows.shape[0] - 1)
            self.kept.append(rows[places])

    @property
    def sample(self) -> Tensor:
        """The rows that were kept, float32 [R K]."""
        return torch.cat(self.kept) if self.kept else torch.zeros(0, self.width)

    @property
    def mean_magnitude(self) -> Tensor:
        """``mean |x|``, [K]."""
        return self.magnitude / max(1.0, self.rows)

    @property
    def importance(self) -> Tensor:
        """``mean x^2``, [K]."""
        return torch.cat([moments.diagonal() for moments in self.moments]) / max(1.0, self.rows)

    def divide(self, factors: Tensor) -> None:
        """The statistics of the same rows with each channel divided by a factor.

        Args:
            factors: float32 [K], above zero.
        """
        self.magnitude /= factors
        self.kept = [rows / factors for rows in self.kept]
        for (start, end), moments in zip(self.spans, self.moments, strict=True):
            part = factors[start:end]
            moments.div_(part[:, None]).div_(part)

    def error(self, difference: Tensor) -> Tensor:
        """Mean squared change of a layer's outputs if its weight changes.

        Args:
            difference: float32 [N K], the change of the weight.

        Returns:
            [N], for each output the mean over the rows; exact within a span, between spans as if
            their channels were independent.
        """
        total = difference.new_zeros(difference.shape[0])
        for (start, end), moments in zip(self.spans, self.moments, strict=True):
            part = difference[:, start:end]
            total += (part @ moments).mul_(part).sum(-1)
        return total.clamp_min_(0) / max(1.0, self.rows)
