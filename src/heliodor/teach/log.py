"""What a run says while it lasts: lines of JSON in a file, a bar or lines on the screen."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self

from heliodor.teach.state import Resumed

_BAR = 24
_CLEAR = "\r\x1b[K"


class Mean(float):
    """A figure that is a mean, and over how much: tokens, patches, whatever was counted."""

    over: float

    def __new__(cls, value: float, over: float) -> Self:
        """The mean of nothing counts nothing, whatever its value."""
        made = super().__new__(cls, value)
        made.over = over
        return made


def joined(parts: Iterable[tuple[float, Mapping[str, float]]]) -> dict[str, float]:
    """The figures of a batch from those of its parts.

    Args:
        parts: share of the batch and figures of each. A :class:`Mean` counts by what it is over,
            another figure by the share; a part that lacks a figure has no say in it.

    Returns:
        By name; a mean over nothing in all parts is left out.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    for share, figures in parts:
        for name, figure in figures.items():
            weight = figure.over if isinstance(figure, Mean) else share
            found.setdefault(name, []).append((weight, figure))
    whole = {name: sum(weight for weight, _ in each) for name, each in found.items()}
    return {
        name: sum(weight * figure for weight, figure in each) / whole[name]
        for name, each in sorted(found.items())
        if whole[name] > 0
    }


class Log:
    """A line of JSON every few steps, and the same on screen.

    A line holds ``step`` (steps taken), ``of`` (steps in all), ``seconds`` (training time, earlier
    sittings included) and the mean of every figure since the line before. Samples have a line of
    their own, with ``step`` and ``samples``. The file is only ever added to: a run that was killed
    and resumed writes some steps twice.

    Args:
        path: the file.
        name: of the run, on screen.
        steps: in all.
        every: steps between lines.
        start: where the run stands.
        quiet: leave the screen alone.
    """

    def __init__(
        self, path: Path, name: str, *, steps: int, every: int, start: Resumed, quiet: bool
    ) -> None:
        self._path, self._name, self._quiet = path, name, quiet
        self._steps, self._every = steps, every
        self._start = start
        self._began = time.monotonic()
        self._sums: dict[str, list[float]] = {}
        self._words = ""
        self._bar = not quiet and sys.stderr.isatty()

    def __enter__(self) -> None:
        self._file = self._path.open("a", encoding="utf-8")

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self._bar:
            self._say("\n")

    def seconds(self) -> float:
        """Training time so far, earlier sittings included."""
        return self._start.seconds + time.monotonic() - self._began

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Collect the figures of a step counted from 0; every ``every`` steps write their means."""
        for key, value in figures.items():
            self._sums.setdefault(key, []).append(value)
        taken = step + 1
        due = taken % self._every == 0 or taken == self._steps
        if due:
            means = {key: round(sum(v) / len(v), 4) for key, v in self._sums.items()}
            self._sums.clear()
            self._words = " ".join(f"{key} {value:g}" for key, value in means.items())
            about = {"step": taken, "of": self._steps, "seconds": round(self.seconds())}
            self._line(about | means)
        if self._bar:
            width = shutil.get_terminal_size().columns - 1
            done = _BAR * taken // self._steps
            bar = "#" * done + "." * (_BAR - done)
            self._say(_CLEAR + f"{self._name} [{bar}] {self._status(taken)}"[:width])
        elif due and not self._quiet:
            self._say(f"{self._name} {self._status(taken)}\n")

    def samples(self, step: int, lines: Sequence[str]) -> None:
        """Write sample predictions."""
        self._line({"step": step + 1, "samples": list(lines)})
        if not self._quiet:
            self._say((_CLEAR if self._bar else "") + "".join(f"    {line}\n" for line in lines))

    def _status(self, taken: int) -> str:
        rate = (time.monotonic() - self._began) / (taken - self._start.step)
        left = (self._steps - taken) * rate / 60
        return f"{taken}/{self._steps} {self._words} ({left:.0f} min left)"

    def _line(self, content: Mapping[str, object]) -> None:
        self._file.write(json.dumps(content, ensure_ascii=False) + "\n")
        self._file.flush()

    def _say(self, text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()
