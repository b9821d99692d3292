"""Paints records, tables and charts on a page, in letters that can be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, floor

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from heliodor.teach.data.figures import BarChart, Table
from heliodor.teach.data.fonts import Face, font
from heliodor.teach.data.records import Row
from heliodor.teach.data.surfaces import Colour, ink_for, tone
from heliodor.teach.data.words import pick

__all__ = ["Look", "Page", "draw_look", "paint_chart", "paint_rows", "paint_table"]

Rng = np.random.Generator


_BAR_COLOURS: tuple[Colour, ...] = (
    (66, 110, 180),
    (200, 80, 60),
    (80, 150, 90),
    (150, 100, 170),
    (220, 150, 50),
    (90, 160, 180),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """How a page looks: its face, its colours, and the font sizes to try, largest first."""

    face: Face
    paper: Colour
    ink: Colour
    sizes: tuple[int, ...]

    @property
    def faint(self) -> Colour:
        """A colour between paper and ink, for rules and grids."""
        red, green, blue = ((2 * p + i) // 3 for p, i in zip(self.paper, self.ink, strict=True))
        return (red, green, blue)

    @property
    def shade(self) -> Colour:
        """The paper, slightly tinted with ink, for headers and bands."""
        red, green, blue = ((9 * p + i) // 10 for p, i in zip(self.paper, self.ink, strict=True))
        return (red, green, blue)


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """A painted page.

    Attributes:
        image: the page, RGB.
        numbers: of the same size, in mode I: one more than the place in `letters` of the letter at
            each pixel; 0 is no letter.
        letters: every text on the page, one a line, as often as it stands there.
        font_size: pixels to the em of the smallest text.
    """

    image: Image.Image
    numbers: Image.Image
    letters: str
    font_size: int


def draw_look(rng: Rng, face: Face, size: int, *, signlike: bool) -> Look:
    """A look for pictures of `size` pixels; signs may be dark, papers are light."""
    paper = tone(rng, dark=bool(signlike and rng.random() < 0.5))
    ink: Colour = (
        (20, 20, 25) if not signlike and rng.random() < 0.6 else ink_for(rng, (paper,), least=6)
    )
    largest = int(rng.integers(13, 23)) * max(224, size) // 224
    smallest = 11 * max(224, size) // 224
    return Look(face=face, paper=paper, ink=ink, sizes=tuple(range(largest, smallest - 1, -1)))


def _length(typeface: ImageFont.FreeTypeFont, text: str) -> int:
    return ceil(typeface.getlength(text))


class _Pen:
    """Writes on an empty page, and beside it which letter lies where.

    Args:
        size: width and height of the page in pixels.
        look: its colours.
    """

    def __init__(self, size: tuple[int, int], look: Look) -> None:
        self.look = look
        self.image = Image.new("RGB", size, look.paper)
        self.draw = ImageDraw.Draw(self.image)
        self._numbers = Image.new("I", size)
        self._texts: list[str] = []
        self._written = 0

    def write(
        self, at: tuple[int, int], text: str, typeface: ImageFont.FreeTypeFont, anchor: str
    ) -> None:
        """Write `text` with the left, middle or right of its baseline (ls, ms, rs) at a pixel."""
        self.draw.text(at, text, self.look.ink, typeface, anchor=anchor)
        self._texts.append(text)
        first, self._written = self._written + 1, self._written + len(text) + 1
        before = {"ls": 0.0, "ms": 0.5, "rs": 1.0}[anchor] * typeface.getlength(text)
        for index, letter in enumerate(text):
            if letter == " ":
                continue
            left, top, mask = _letter(typeface, letter)
            x = round(at[0] - before + typeface.getlength(text[:index]))
            self._numbers.paste(first + index, (x + left, at[1] + top), mask)

    def page(self, font_size: int) -> Page:
        """What was written, in letters of at least that size."""
        letters = "\n".join(self._texts)
        return Page(image=self.image, numbers=self._numbers, letters=letters, font_size=font_size)


@lru_cache(maxsize=4096)  # at some 500 bytes each
def _letter(typeface: ImageFont.FreeTypeFont, letter: str) -> tuple[int, int, Image.Image]:
    """The pixels of a letter, and where they begin: right of and below its origin."""
    box = typeface.getbbox(letter, mode="1", anchor="ls")
    left, top = floor(box[0]), floor(box[1])
    mask = Image.new("1", (max(1, ceil(box[2]) - left), max(1, ceil(box[3]) - top)))
    ImageDraw.Draw(mask).text((-left, -top), letter, 1, typeface, anchor="ls")
    return left, top, mask


def paint_rows(rng: Rng, look: Look, rows: Sequence[Row], room: int) -> Page | None:
    """The rows on a page within `room` pixels square; None if they would not be legible."""
    for font_size in look.sizes:
        small = font(look.face.path, font_size)
        large = font(look.face.path, font_size * 4 // 3)
        margin, pitch = font_size * 2 // 3, round(1.4 * font_size)
        needed = max(_row_width(row, large if row.heading else small) for row in rows)
        width = needed + 2 * margin
        heights = [_row_height(row, pitch) for row in rows]
        height = sum(heights) + 2 * margin
        if width > room or height > room:
            continue
        wide = int(rng.integers(width, min(room, width * 3 // 2) + 1))
        pen = _Pen((wide, height), look)
        dashed, dotted = rng.random() < 0.5, rng.random() < 0.3
        top = margin
        for row, row_height in zip(rows, heights, strict=True):
            span = (margin, wide - margin)
            if row.rule:
                _rule(pen.draw, look, span, top + row_height // 2, dashed=bool(dashed))
            else:
                typeface = large if row.heading else small
                _row(pen, row, typeface, span, top + row_height * 3 // 4, dotted=bool(dotted))
            top += row_height
        if rng.random() < 0.3:
            pen.draw.rectangle((1, 1, wide - 2, height - 2), outline=look.ink)
        return pen.page(font_size)
    return None


def _row_height(row: Row, pitch: int) -> int:
    if row.rule:
        return pitch // 2
    return pitch * 4 // 3 if row.heading else pitch


def _row_width(row: Row, typeface: ImageFont.FreeTypeFont) -> int:
    gap = typeface.size if row.right else 0
    arrow = 1.6 * typeface.size if row.arrow else 0
    return _length(typeface, row.left) + _length(typeface, row.right) + ceil(gap + arrow)


def _rule(
    draw: ImageDraw.ImageDraw, look: Look, span: tuple[int, int], y: int, *, dashed: bool
) -> None:
    left, right = span
    if not dashed:
        draw.line([(left, y), (right, y)], fill=look.faint)
        return
    for x in range(left, right, 6):
        draw.line([(x, y), (min(x + 3, right), y)], fill=look.ink)


def _row(
    pen: _Pen,
    row: Row,
    typeface: ImageFont.FreeTypeFont,
    span: tuple[int, int],
    baseline: int,
    *,
    dotted: bool,
) -> None:
    """One row of text with its baseline at `baseline`."""
    left, right = span
    size = int(typeface.size)
    if row.arrow:
        _arrow(pen.draw, pen.look.ink, (left + size // 2, baseline - size // 3), size, row.arrow)
        left += ceil(1.6 * size)
    if not row.right and not row.arrow:
        middle = (left + right) // 2
        pen.write((middle, baseline), row.left, typeface, "ms")
        return
    pen.write((left, baseline), row.left, typeface, "ls")
    pen.write((right, baseline), row.right, typeface, "rs")
    if dotted and row.right:
        start = left + _length(typeface, row.left) + 4
        for x in range(start, right - _length(typeface, row.right) - 4, 4):
            pen.draw.point((x, baseline), fill=pen.look.ink)


def _arrow(
    draw: ImageDraw.ImageDraw, colour: Colour, centre: tuple[int, int], size: int, way: str
) -> None:
    """An arrow of `size` pixels that points left, right or up."""
    x, y = centre
    half = size / 2
    across, down = {"left": (-1, 0), "right": (1, 0), "up": (0, -1)}[way]
    tip = (x + across * half, y + down * half)
    side = (down * half * 0.7, across * half * 0.7)
    head = [tip, (x + side[0], y + side[1]), (x - side[0], y - side[1])]
    draw.polygon(head, fill=colour)
    tail = (x - across * half, y - down * half)
    draw.line([tail, (x, y)], fill=colour, width=max(2, size // 6))


def paint_table(rng: Rng, look: Look, table: Table, room: int) -> Page | None:
    """The table on a page within `room` pixels square; None if it would not be legible."""
    cells = table.cells()
    for font_size in look.sizes:
        typeface = font(look.face.path, font_size)
        gap, pitch = font_size, round(font_size * 1.6)
        widths = [
            max(_length(typeface, row[i]) for row in cells) + gap for i in range(len(cells[0]))
        ]
        if sum(widths) + 2 > room or pitch * len(cells) + 2 > room:
            continue
        spare = int(rng.integers(0, min(30, room - sum(widths) - 2) + 1)) // len(widths)
        widths = [width + spare for width in widths]
        pitch = min(pitch + int(rng.integers(0, 6)), (room - 2) // len(cells))
        pen = _Pen((sum(widths) + 1, pitch * len(cells) + 1), look)
        _grid(rng, pen.draw, look, widths, pitch, len(cells))
        numbers_right = rng.random() < 0.5
        for index, row in enumerate(cells):
            left = 0
            baseline = pitch * index + pitch // 2 + font_size // 3
            for column, (text, width) in enumerate(zip(row, widths, strict=True)):
                anchor, x = ("ls", left + gap // 2)
                if numbers_right and column > 0:
                    anchor, x = ("rs", left + width - gap // 2)
                pen.write((x, baseline), text, typeface, anchor)
                left += width
        return pen.page(font_size)
    return None


def _grid(
    rng: Rng, draw: ImageDraw.ImageDraw, look: Look, widths: Sequence[int], pitch: int, rows: int
) -> None:
    """Bands and lines behind a table: a shaded header, stripes, a full grid or just rules."""
    right, bottom = sum(widths), pitch * rows
    if rng.random() < 0.6:
        draw.rectangle((0, 0, right, pitch), fill=look.shade)
    if rng.random() < 0.25:
        for index in range(2, rows, 2):
            draw.rectangle((0, pitch * index, right, pitch * (index + 1)), fill=look.shade)
    full = rng.random() < 0.6
    for index in range(rows + 1) if full else (0, 1, rows):
        draw.line([(0, pitch * index), (right, pitch * index)], fill=look.faint)
    if full:
        for x in np.cumsum([0, *widths]):
            draw.line([(int(x), 0), (int(x), bottom)], fill=look.faint)


def paint_chart(rng: Rng, look: Look, chart: BarChart, room: int) -> Page | None:
    """The chart on a page within `room` pixels square; None if it would not be legible."""
    for font_size in (s for s in look.sizes if s <= max(look.sizes[-1], room // 13)):
        typeface = font(look.face.path, font_size)
        marks = [str(chart.step * index) for index in range(6)]
        axis = max(_length(typeface, mark) for mark in marks) + font_size // 2
        texts = [label for label, _ in chart.bars] + [str(value) for _, value in chart.bars]
        slot = max(max(_length(typeface, text) for text in texts) + font_size // 3, font_size)
        slot = max(slot, min(int(rng.integers(16, 40)), (room - axis - 8) // len(chart.bars)))
        width = axis + slot * len(chart.bars) + 8
        height = int(rng.integers(room * 2 // 3, room + 1))
        if width > room or height < 9 * font_size:
            continue
        pen = _Pen((width, height), look)
        pen.write((width // 2, font_size + 2), chart.title, typeface, "ms")
        floor = height - round(1.6 * font_size)
        plot = _Plot(left=axis, right=width - 4, floor=floor, unit=(floor - 3 * font_size) / 5)
        if plot.unit < font_size and not chart.labelled:
            continue
        _axis(pen, chart, plot, typeface)
        _bars(rng, pen, chart, plot, typeface)
        return pen.page(font_size)
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plot:
    """Where the bars stand: pixel columns, the row of zero, and pixels from mark to mark."""

    left: int
    right: int
    floor: int
    unit: float


def _axis(pen: _Pen, chart: BarChart, plot: _Plot, typeface: ImageFont.FreeTypeFont) -> None:
    """The value axis with its marks, and the base line."""
    draw, look = pen.draw, pen.look
    size = int(typeface.size)
    for index in range(6):
        y = round(plot.floor - index * plot.unit)
        if index == 0 or not chart.labelled:
            draw.line([(plot.left, y), (plot.right, y)], fill=look.faint)
        else:
            draw.line([(plot.left - 2, y), (plot.left, y)], fill=look.ink)
        if plot.unit >= size or index in (0, 5):  # on a low chart the marks would touch
            mark = str(chart.step * index)
            pen.write((plot.left - 4, y + size // 3), mark, typeface, "rs")
    draw.line([(plot.left, plot.floor - 5 * plot.unit), (plot.left, plot.floor)], fill=look.ink)


def _bars(
    rng: Rng, pen: _Pen, chart: BarChart, plot: _Plot, typeface: ImageFont.FreeTypeFont
) -> None:
    """The bars, their labels below and, where the chart has them, their values above."""
    slot = (plot.right - plot.left) // len(chart.bars)
    half = max(3, round(slot * rng.uniform(0.25, 0.42)))
    one_colour = pick(rng, _BAR_COLOURS) if rng.random() < 0.6 else None
    for index, (label, value) in enumerate(chart.bars):
        x = plot.left + slot * index + slot // 2 + 1
        top = round(plot.floor - plot.unit * value / chart.step)
        colour = one_colour or _BAR_COLOURS[index % len(_BAR_COLOURS)]
        pen.draw.rectangle((x - half, top, x + half, plot.floor - 1), fill=colour)
        pen.write((x, plot.floor + int(typeface.size)), label, typeface, "ms")
        if chart.labelled:
            pen.write((x, top - 3), str(value), typeface, "ms")
