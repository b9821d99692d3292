"""What an evaluation found: figures, and where, when and on what they were measured."""

from __future__ import annotations

import os
import platform
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import heliodor
from heliodor.teach.evals.marking import Floor

__all__ = ["Figure", "Report", "Scored", "Timing", "count_met", "describe_machine", "ruled"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """One measured number, of whatever model.

    Attributes:
        name: what is measured: "AP50".
        count: what it rests on, such as questions.
        value: the figure.
        low, high: its bootstrap 95 % interval.
        floor: what it should reach, if anything is asked of it.
    """

    name: str
    count: int
    value: float
    low: float
    high: float
    floor: Floor | None = None

    @property
    def met(self) -> bool | None:
        """Whether the floor is reached; None without one."""
        return None if self.floor is None else self.floor.met(self.value)

    def to_dict(self) -> dict[str, Any]:
        """All of it in JSON's own types."""
        return {**asdict(self), "met": self.met}

    def cells(self) -> tuple[str, ...]:
        """Count, value, interval, floor and verdict, for a table."""
        return (
            str(self.count),
            f"{self.value:.3f}",
            f"{self.low:.3f} .. {self.high:.3f}",
            "" if self.floor is None else str(self.floor),
            {None: "", True: "met", False: "MISSED"}[self.met],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure(Scored):
    """One measured number of a model that answers.

    Attributes:
        task: caption, ask, detect, segment, read or document.
        pictures: which held-out pictures: "new layouts".
        usual: the figure of the most frequent answer.
        blank: the figure of the same model shown a grey picture.
    """

    task: str
    pictures: str
    usual: float
    blank: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """How long answers to a task took.

    Attributes:
        answers: how many were timed in batches.
        seconds: per answer in batches, the picture's share included.
        alone: per answer when a picture and its question come alone.
    """

    answers: int
    seconds: float
    alone: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """An evaluation.

    Attributes:
        figures: what was measured, in the order of the table.
        seed: of the held-out examples and of the resampling.
        examples: questions asked for, a task and kind of picture.
        timing: task -> times.
        elapsed: seconds in all, drawing the pictures included.
        machine: what it ran on.
    """

    figures: tuple[Figure, ...]
    seed: int
    examples: int
    timing: dict[str, Timing]
    elapsed: float
    machine: dict[str, Any]

    @property
    def met(self) -> bool:
        """Whether every floor among the figures is reached."""
        return all(figure.met is not False for figure in self.figures)

    def table(self) -> str:
        """Plain text, at most 120 columns."""
        lines = ruled([_HEAD, *(_row(figure) for figure in self.figures)], _RIGHT)
        return "\n".join([*lines, "", *self._notes()])

    def _notes(self) -> list[str]:
        each = [f"{task} {timing.alone:.2f}" for task, timing in self.timing.items()]
        machine = self.machine
        return [
            f"{count_met(self.figures)} usual: the "
            "most frequent answer. blank: shown a grey picture.",
            f"Seconds per answer, one at a time: {', '.join(each)}.",
            f"{self.elapsed:.0f} s in all, seed {self.seed}. heliodor {machine['heliodor']}, torch "
            f"{machine['torch']}, {machine['threads']} threads, {machine['processor']}.",
        ]

    def to_dict(self) -> dict[str, Any]:
        """All of it in JSON's own types."""
        return {
            "seed": self.seed,
            "examples": self.examples,
            "met": self.met,
            "figures": [figure.to_dict() for figure in self.figures],
            "timing": {task: asdict(timing) for task, timing in self.timing.items()},
            "elapsed": self.elapsed,
            "machine": dict(self.machine),
        }


_HEAD = ("task", "figure", "pictures", "n", "score", "interval", "floor", "", "usual", "blank")
_RIGHT = frozenset({3, 4, 5, 8, 9})


def _row(figure: Figure) -> tuple[str, ...]:
    about = (figure.task, figure.name, figure.pictures)
    return (*about, *figure.cells(), f"{figure.usual:.3f}", f"{figure.blank:.3f}")


def ruled(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """Rows of cells as lines of aligned columns, with a rule under the first one.

    Args:
        rows: the head and what follows, as many cells each.
        right: the columns that end at the same place; the others begin there.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines.insert(1, "-" * max(map(len, lines)))
    return lines


def count_met(figures: Sequence[Scored]) -> str:
    """How many floors are met, and what the intervals under a table are."""
    floors = [figure.met for figure in figures if figure.met is not None]
    return f"{sum(floors)} of {len(floors)} floors met. Interval: bootstrap, 95 %."


def describe_machine() -> dict[str, Any]:
    """Versions, processor, cores and threads."""
    return {
        "heliodor": heliodor.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
