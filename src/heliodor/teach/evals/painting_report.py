"""What the evaluation of a painter found: figures, and how they were come by."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heliodor.teach.evals.report import Scored, count_met, ruled
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
class PaintFigure(Scored):
    """One measured number of a painter, which rests on things, relations or pictures.

    Attributes:
        language: of the prompts; "" for the autoencoder.
        real: the same figure of the scenes that the prompts were taken from; None where it has no
            meaning.
        other: the same figure where each prompt is looked for in the picture of another; None too.
    """

    language: str
    real: float | None = None
    other: float | None = None


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
        return "\n".join(
            [
                *ruled([_HEAD, *(_row(figure) for figure in self.figures)]),
                "",
                f"{count_met(self.figures)} real: the scenes that the prompts were taken from.",
                "other: each prompt looked for in the picture of another. "
                f"{self.prompts} prompts a language, {self.seconds:.2f} s a picture.",
            ]
        )


_HEAD = ("figure", "prompts", "n", "score", "interval", "floor", "", "real", "other")


def _row(figure: PaintFigure) -> tuple[str, ...]:
    return (
        figure.name,
        figure.language,
        *figure.cells(),
        "" if figure.real is None else f"{figure.real:.3f}",
        "" if figure.other is None else f"{figure.other:.3f}",
    )
