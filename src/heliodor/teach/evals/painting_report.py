"""What the evaluation of a painter found: figures, and how they were come by."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heliodor.teach.evals.marking import Floor
from heliodor.teach.evals.statistics import Ratio, samples

__all__ = ["Gap", "PaintFigure", "PaintReport"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Gap:
    """How far one figure lies below another over the same pictures."""

    upper: Ratio
    lower: Ratio

    @property
    def value(self) -> float:
        """The figure."""
        return self.upper.value - self.lower.value

    def draws(self, rng: np.random.Generator, times: int) -> Floats:
        """Over resamples of the pictures, the same for both, [times]."""
        weights = samples(rng, len(self.upper.top), times)

        def over(ratio: Ratio) -> Floats:
            bottom = weights @ ratio.bottom
            out = np.full(times, np.nan)
            return np.divide(weights @ ratio.top, bottom, out=out, where=bottom > 0)

        return over(self.upper) - over(self.lower)


@dataclass(frozen=True, kw_only=True, slots=True)
class PaintFigure:
    """One measured number.

    Attributes:
        name: what is measured.
        language: of the prompts; "" for the autoencoder.
        count: what it rests on: things, relations or pictures.
        value: the figure.
        low, high: its bootstrap 95 % interval.
        real: the same figure of the scenes that the prompts were taken from; None where it has no
            meaning.
        other: the same figure where each prompt is looked for in the picture of another; None too.
        floor: what it should reach, if anything is asked of it.
    """

    name: str
    language: str
    count: int
    value: float
    low: float
    high: float
    real: float | None = None
    other: float | None = None
    floor: Floor | None = None

    @property
    def met(self) -> bool | None:
        """Whether the floor is reached; None without one."""
        return None if self.floor is None else self.floor.met(self.value)

    def to_dict(self) -> dict[str, Any]:
        """All of it in JSON's own types."""
        return {**asdict(self), "met": self.met}


@dataclass(frozen=True, kw_only=True, slots=True)
class PaintReport:
    """An evaluation of a painter.

    Attributes:
        figures: what was measured.
        prompts: how many in each language.
        seed: of the prompts, the noise and the resampling.
        options: how pictures were painted.
        seconds: of painting one picture, in batches.
        machine: what it ran on.
    """

    figures: tuple[PaintFigure, ...]
    prompts: int
    seed: int
    options: dict[str, Any]
    seconds: float
    machine: dict[str, Any]

    @property
    def met(self) -> bool:
        """Whether every floor is reached."""
        return all(figure.met is not False for figure in self.figures)

    def to_dict(self) -> dict[str, Any]:
        """All of it in JSON's own types."""
        return {
            **asdict(self),
            "figures": [figure.to_dict() for figure in self.figures],
            "met": self.met,
        }

    def table(self) -> str:
        """Plain text."""
        rows = [_HEAD, *(_row(figure) for figure in self.figures)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        floors = [figure.met for figure in self.figures if figure.met is not None]
        return "\n".join(
            [
                lines[0],
                "-" * max(map(len, lines)),
                *lines[1:],
                "",
                f"{sum(floors)} of {len(floors)} floors met. Interval: bootstrap, 95 %. real: the "
                "scenes that the prompts were taken from.",
                "other: each prompt looked for in the picture of another. "
                f"{self.prompts} prompts a language, {self.seconds:.2f} s a picture.",
            ]
        )


_HEAD = ("figure", "prompts", "n", "score", "interval", "floor", "", "real", "other")


def _row(figure: PaintFigure) -> tuple[str, ...]:
    return (
        figure.name,
        figure.language,
        str(figure.count),
        f"{figure.value:.3f}",
        f"{figure.low:.3f} .. {figure.high:.3f}",
        "" if figure.floor is None else str(figure.floor),
        {None: "", True: "met", False: "MISSED"}[figure.met],
        "" if figure.real is None else f"{figure.real:.3f}",
        "" if figure.other is None else f"{figure.other:.3f}",
    )
