"""What tables and bar charts show, and what can be asked about them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from heliodor.teach.data.records import CITIES, GOODS, Limits, sample
from heliodor.teach.data.words import DAYS, FIRST_NAMES, MONTHS, pick

__all__ = ["BarChart", "Column", "Table", "draw_chart", "draw_table"]

Rng = np.random.Generator
Question = tuple[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        header: what stands on top.
        ask: a question about a cell, with {key} for the name of its row.
        values: the cells, from the top; all different where `numbers` is given.
        numbers: what the cells are worth, if they can be compared.
    """

    header: str
    ask: str
    values: tuple[str, ...]
    numbers: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table whose first column names its rows."""

    key_header: str
    keys: tuple[str, ...]
    columns: tuple[Column, ...]

    def cells(self) -> tuple[tuple[str, ...], ...]:
        """Header and rows, as shown."""
        header = (self.key_header, *(column.header for column in self.columns))
        rows = (
            (key, *(column.values[index] for column in self.columns))
            for index, key in enumerate(self.keys)
        )
        return (header, *rows)

    def questions(self) -> tuple[Question, ...]:
        """Every cell by its row and column, and the extremes of columns of numbers."""
        asked: list[Question] = []
        for column in self.columns:
            name = column.header.lower()
            for key, value in zip(self.keys, column.values, strict=True):
                asked.append((column.ask.format(key=key), value))
                asked.append((f"What is the {name} of {key}?", value))
            if column.numbers:
                order = sorted(range(len(self.keys)), key=column.numbers.__getitem__)
                noun = self.key_header.lower()
                asked.append((f"Which {noun} has the lowest {name}?", self.keys[order[0]]))
                asked.append((f"Which {noun} has the highest {name}?", self.keys[order[-1]]))
        return tuple(dict.fromkeys(asked))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Kind:
    """A sort of column: numbers of `low` to `high` in steps, written by `form`."""

    header: str
    ask: str
    low: int
    high: int
    step: int = 1
    form: str = "{}"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Subject:
    """A sort of table: what names its rows, and the columns it may have."""

    header: str
    names: tuple[str, ...]
    columns: tuple[_Kind, ...]


def _kind(header: str, ask: str, numbers: tuple[int, int, int], form: str = "{}") -> _Kind:
    low, high, step = numbers
    return _Kind(header=header, ask=ask, low=low, high=high, step=step, form=form)


_SUBJECTS = (
    _Subject(
        header="Item",
        names=GOODS,
        columns=(
            _kind("Price", "How much is {key}?", (50, 2000, 5), "money"),
            _kind("Stock", "How many units of {key} are in stock?", (0, 200, 1)),
            _kind("Sold", "How many units of {key} were sold?", (1, 100, 1)),
        ),
    ),
    _Subject(
        header="Name",
        names=tuple(FIRST_NAMES.split()),
        columns=(
            _kind("Age", "How old is {key}?", (5, 95, 1)),
            _kind("Score", "How many points does {key} have?", (0, 100, 1)),
            _kind("Room", "Which room is {key} in?", (100, 500, 1)),
        ),
    ),
    _Subject(
        header="City",
        names=CITIES,
        columns=(
            _kind("Time", "When does the train to {key} leave?", (300, 1435, 5), "clock"),
            _kind("Gate", "Which gate does the train to {key} leave from?", (1, 30, 1)),
            _kind("Fare", "How much is a ticket to {key}?", (500, 9900, 50), "money"),
        ),
    ),
    _Subject(
        header="City",
        names=CITIES,
        columns=(
            _kind("Heat", "How warm is it in {key}?", (-9, 40, 1)),
            _kind("Wind", "How strong is the wind in {key}?", (0, 90, 1)),
            _kind("Rain", "How much rain falls in {key}?", (0, 150, 1), "{} mm"),
        ),
    ),
)


def _write(number: int, form: str, currency: str) -> str:
    """A number as its column writes it."""
    if form == "money":
        return f"{currency}{number // 100}.{number % 100:02d}"
    if form == "clock":
        return f"{number // 60}:{number % 60:02d}"
    return form.format(number)


def draw_table(rng: Rng, limits: Limits) -> Table:
    """A table of 2 to 4 columns and 2 to 4 rows under a header."""
    subject = pick(rng, _SUBJECTS)
    keys = sample(rng, subject.names, int(rng.integers(2, min(4, limits.entries) + 1)), limits)
    currency = pick(rng, ("$", "£", "€", ""))
    count = int(rng.integers(1, min(3, limits.columns) + 1))
    chosen = rng.permutation(len(subject.columns))[:count]
    columns: list[Column] = []
    for kind in (subject.columns[int(index)] for index in chosen):
        drawn = rng.choice(np.arange(kind.low, kind.high, kind.step), len(keys), replace=False)
        numbers = tuple(int(number) for number in drawn)
        values = tuple(_write(number, kind.form, currency) for number in numbers)
        compared = () if kind.header in {"Gate", "Room", "Time"} else numbers
        columns.append(Column(header=kind.header, ask=kind.ask, values=values, numbers=compared))
    shown = tuple(key.capitalize() for key in keys)
    return Table(key_header=subject.header, keys=shown, columns=tuple(columns))


@dataclass(frozen=True, kw_only=True, slots=True)
class BarChart:
    """Bars with different heights.

    Attributes:
        title: written above.
        noun: what the labels are: "month", "city".
        bars: (label, value) from the left; values are whole and positive.
        step: the distance of two marks on the value axis.
        labelled: whether each value is written above its bar. If not, values are multiples of
            `step` and can be read off the axis.
    """

    title: str
    noun: str
    bars: tuple[tuple[str, int], ...]
    step: int
    labelled: bool

    def questions(self) -> tuple[Question, ...]:
        """Every value, the extremes, the number of bars and the title."""
        asked = [(f"What is the value of {label}?", str(value)) for label, value in self.bars]
        order = sorted(self.bars, key=lambda bar: bar[1])
        smallest, largest = order[0], order[-1]
        asked += [
            ("Which is the largest?", largest[0]),
            ("Which is the smallest?", smallest[0]),
            (f"Which {self.noun} has the highest value?", largest[0]),
            (f"Which {self.noun} has the lowest value?", smallest[0]),
            ("What is the highest value?", str(largest[1])),
            ("What is the lowest value?", str(smallest[1])),
            ("How many bars are there?", str(len(self.bars))),
            ("What is the title of the chart?", self.title),
        ]
        return tuple(asked)


_TITLES = ("Sales", "Visitors", "Rain", "Books", "Votes", "Points", "Cars", "Orders", "Profit")
_STEPS = (1, 2, 5, 10, 20, 50)


def draw_chart(rng: Rng, limits: Limits) -> BarChart:
    """A chart of 3 to 6 bars, of which 4 in 5 charts write the values above."""
    count = int(rng.integers(3, min(6, limits.entries + 1) + 1))
    noun, labels = _labels(rng, count)
    step = pick(rng, _STEPS)
    labelled = bool(rng.random() < 0.8)
    grid = step if not labelled else max(1, step // 5)
    heights = np.arange(grid, 5 * step + 1, grid)
    values = rng.choice(heights, min(count, len(heights)), replace=False)
    bars = tuple((label, int(value)) for label, value in zip(labels, values, strict=False))
    return BarChart(title=pick(rng, _TITLES), noun=noun, bars=bars, step=step, labelled=labelled)


def _labels(rng: Rng, count: int) -> tuple[str, tuple[str, ...]]:
    """What the bars stand for: a noun, and `count` short labels."""
    noun = pick(rng, ("month", "day", "year", "name", "city"))
    if noun in {"month", "day"}:
        names = tuple(name[:3] for name in (MONTHS if noun == "month" else DAYS).split())
        start = int(rng.integers(len(names) - count + 1))
        return noun, names[start : start + count]
    if noun == "year":
        start = int(rng.integers(1990, 2026 - count))
        return noun, tuple(str(start + index) for index in range(count))
    source = tuple(FIRST_NAMES.split()) if noun == "name" else CITIES
    short = tuple(name for name in source if len(name) <= 5)
    return noun, tuple(short[int(index)] for index in rng.permutation(len(short))[:count])
