"""Figures that know their own uncertainty: a value, and values over resampled examples.

The interval is the percentile bootstrap's: examples are drawn anew with repetition, the figure is
computed from each draw, and the middle 95 % of those values is the interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from heliodor.errors import InputError

__all__ = ["Macro", "Ratio", "Statistic", "interval", "samples"]

Floats = NDArray[np.float64]

RESAMPLES = 1000


class Statistic(Protocol):
    """A figure over independent examples."""

    @property
    def value(self) -> float:
        """The figure."""
        ...

    def draws(self, rng: np.random.Generator, times: int) -> Floats:
        """The figure over ``times`` resamples of its examples, [times]."""
        ...


def samples(rng: np.random.Generator, units: int, times: int) -> Floats:
    """How often each of ``units`` examples is drawn, [times units]; rows sum to ``units``."""
    return rng.multinomial(units, np.full(units, 1.0 / units), size=times).astype(np.float64)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Ratio:
    """Sum over sum: a mean, an error rate, a micro-averaged F1.

    Attributes:
        top: [N], what each example adds to the numerator.
        bottom: [N], what it adds to the denominator.
    """

    top: Floats
    bottom: Floats

    @staticmethod
    def of(pairs: Sequence[tuple[float, float]]) -> Ratio:
        """From (top, bottom) of each example.

        Raises:
            InputError: no example, or nothing to divide by.
        """
        table = np.array(pairs, dtype=np.float64).reshape(-1, 2)
        if not table[:, 1].sum() > 0:
            raise InputError(f"{len(pairs)} examples leave nothing to divide by: give more")
        return Ratio(top=table[:, 0], bottom=table[:, 1])

    @staticmethod
    def mean(values: Sequence[float]) -> Ratio:
        """The mean of one value an example; errors are those of ``of``."""
        return Ratio.of([(value, 1.0) for value in values])

    @property
    def value(self) -> float:
        """The figure."""
        return float(self.top.sum() / self.bottom.sum())

    def draws(self, rng: np.random.Generator, times: int) -> Floats:
        """The figure over resamples, [times]; not a number where nothing is left to divide by."""
        weights = samples(rng, len(self.top), times)
        bottom = weights @ self.bottom
        out = np.full(times, np.nan)
        return np.divide(weights @ self.top, bottom, out=out, where=bottom > 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Macro:
    """The mean of several figures, each resampled on its own."""

    parts: tuple[Statistic, ...]

    @property
    def value(self) -> float:
        """The figure."""
        return float(np.mean([part.value for part in self.parts]))

    def draws(self, rng: np.random.Generator, times: int) -> Floats:
        """The figure over resamples, [times]."""
        return np.mean([part.draws(rng, times) for part in self.parts], axis=0)


def interval(statistic: Statistic, seed: int, times: int = RESAMPLES) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval.

    Args:
        statistic: the figure.
        seed: of the resampling.
        times: resamples.
    """
    draws = statistic.draws(np.random.default_rng(seed), times)
    low, high = np.nanpercentile(draws, (2.5, 97.5))
    return float(low), float(high)
