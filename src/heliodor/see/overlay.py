"""A picture with boxes, masks and words on it.

Colours are Okabe and Ito's, which people with any colour vision can tell apart; one colour a label.
Plain ASCII is set in the face that Pillow carries, so that pictures are the same everywhere; what
that face lacks, accents and other scripts, uses the first fitting font found on the machine.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

__all__ = ["COLOURS", "Mark", "draw_marks", "write_below"]

Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

COLOURS: tuple[Colour, ...] = (
    (0, 114, 178),  # blue
    (230, 159, 0),  # orange
    (0, 158, 115),  # green
    (213, 94, 0),  # vermilion
    (86, 180, 233),  # sky
    (204, 121, 167),  # purple
    (240, 228, 66),  # yellow
)
INK: Colour = (32, 32, 32)
PAPER: Colour = (250, 250, 248)
TINT = 0.45
"""How far a mask's pixels move towards its colour."""

WIDE_FONTS = (
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJKsc-Regular.otf",
    "SourceHanSans-Regular.ttc",
    "DroidSansFallbackFull.ttf",
    "wqy-zenhei.ttc",
    "wqy-microhei.ttc",
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
    "msyh.ttc",
    "msgothic.ttc",
)
LATIN_FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "LiberationSans-Regular.ttf",
    "Arial.ttf",
    "Helvetica.ttc",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """One thing to draw: box (x0, y0, x1, y1) in pixels, score 0..1, mask float [H W] or None."""

    label: str
    xyxy: tuple[float, float, float, float]
    score: float | None = None
    mask: NDArray[np.float32] | None = None


def draw_marks(image: Image.Image, marks: Sequence[Mark]) -> Image.Image:
    """A copy of the picture with masks tinted and outlined, boxes framed, and labels on tabs."""
    labels = list(dict.fromkeys(mark.label for mark in marks))
    colours = {label: COLOURS[row % len(COLOURS)] for row, label in enumerate(labels)}
    page = image.convert("RGB")
    for mark in marks:
        if mark.mask is not None:
            page = _tint(page, mark.mask, colours[mark.label])
    pen = ImageDraw.Draw(page)
    stroke = max(1, round(min(page.size) / 160))
    for mark in marks:
        _frame(pen, _inside(mark.xyxy, page.size), colours[mark.label], stroke)
    for mark in marks:  # last, so that no frame crosses a word
        _tab(pen, mark, page.size, colours[mark.label])
    return page


def write_below(image: Image.Image, lines: Sequence[str], *, min_width: int = 448) -> Image.Image:
    """A copy of the picture with lines of text on a strip under it.

    Args:
        image: RGB.
        lines: each is wrapped to the picture's width.
        min_width: pixels; a smaller picture is enlarged by a whole number, so that words fit.
    """
    scale = -(-min_width // image.width)
    size = (image.width * scale, image.height * scale)
    picture = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    side = max(14, size[0] // 32)
    font, text = _set("\n".join(" ".join(line.split()) for line in lines), side)
    margin, step = side * 2 // 3, side * 3 // 2
    rows = [row for line in text.split("\n") for row in _wrap(line, font, size[0] - 2 * margin)]
    strip = step * len(rows) + margin if lines else 0
    page = Image.new("RGB", (size[0], size[1] + strip), PAPER)
    page.paste(picture)
    pen = ImageDraw.Draw(page)
    for row, text in enumerate(rows):
        pen.text((margin, size[1] + margin // 2 + step * row), text, fill=INK, font=font)
    return page


def _tint(page: Image.Image, mask: NDArray[np.float32], colour: Colour) -> Image.Image:
    """Move the mask's pixels towards the colour, and paint its rim in it."""
    weight = Image.fromarray((mask.clip(0, 1) * (255 * TINT)).round().astype(np.uint8))
    body = Image.fromarray(((mask >= 0.5) * 255).astype(np.uint8))
    around = Image.new("L", (page.width + 2, page.height + 2))
    around.paste(body, (1, 1))
    eroded = around.filter(ImageFilter.MinFilter(3)).crop((1, 1, page.width + 1, page.height + 1))
    rim = Image.fromarray(np.asarray(body) & ~np.asarray(eroded))
    flat = Image.new("RGB", page.size, colour)
    return Image.composite(flat, Image.composite(flat, page, weight), rim)


def _inside(xyxy: Sequence[float], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """First and last pixel of the box, kept in the picture."""
    x0, y0, x1, y1 = (round(value) for value in xyxy)
    left, top = min(max(x0, 0), size[0] - 1), min(max(y0, 0), size[1] - 1)
    return left, top, min(max(x1 - 1, left), size[0] - 1), min(max(y1 - 1, top), size[1] - 1)


def _frame(
    pen: ImageDraw.ImageDraw, box: tuple[int, int, int, int], colour: Colour, stroke: int
) -> None:
    """A coloured frame inside the box, with a hairline of the other lightness within it."""
    left, top, right, bottom = box
    if right - left > 2 * stroke and bottom - top > 2 * stroke:
        within = (left + stroke, top + stroke, right - stroke, bottom - stroke)
        pen.rectangle(within, outline=_against(colour), width=1)
    pen.rectangle(box, outline=colour, width=stroke)


def _tab(pen: ImageDraw.ImageDraw, mark: Mark, size: tuple[int, int], colour: Colour) -> None:
    """The label and score on a tab over the box's top left corner, or in it where none fits."""
    words = [mark.label, "" if mark.score is None else f"{mark.score:.2f}"]
    text = " ".join(word for word in words if word)
    if not text:
        return
    side = min(max(10, round(min(size) / 24)), 32)
    font, text = _set(text, side)
    pad = max(2, side // 5)
    width, height = round(pen.textlength(text, font)) + 2 * pad, side + 2 * pad
    left, top, _, _ = _inside(mark.xyxy, size)
    x = max(0, min(left, size[0] - width))
    y = top - height if top >= height else top
    pen.rectangle((x, y, x + width - 1, y + height - 1), fill=colour)
    middle = (x + pad, y + height / 2)
    pen.text(middle, text, fill=_against(colour), font=font, anchor="lm")


def _against(colour: Colour) -> Colour:
    """Black or white, whichever stands out more (relative luminance by ITU-R BT.709)."""
    linear = [((value / 255 + 0.055) / 1.055) ** 2.4 for value in colour]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if luminance > 0.179 else (255, 255, 255)


@cache
def _installed(names: tuple[str, ...], side: int) -> Font | None:
    for name in names:
        try:
            return ImageFont.truetype(name, side)
        except OSError:
            continue
    return None


@cache
def _carried(side: int) -> Font:
    return ImageFont.load_default(float(side))


def _set(text: str, side: int) -> tuple[Font, str]:
    """A face with the letters of the text, and the text as that face can write it."""
    if text.isascii():
        return _carried(side), text
    latin = all(ord(letter) < 0x250 for letter in text)
    names = (*LATIN_FONTS, *WIDE_FONTS) if latin else (*WIDE_FONTS, *LATIN_FONTS)
    font = _installed(names, side)
    if font is not None:
        return font, text
    bare = (c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return _carried(side), "".join(bare).encode("ascii", "replace").decode()


def _wrap(line: str, font: Font, width: int) -> list[str]:
    """Break a line where its words allow; before any letter of a script without spaces."""
    rows, row = list[str](), ""
    for part in _parts(line):
        if row and font.getlength((row + part).rstrip()) > width:
            rows.append(row.rstrip())
            row = part.lstrip()
        else:
            row += part
        while font.getlength(row.rstrip()) > width and len(row) > 1:
            fit = next(
                n for n in range(len(row) - 1, 0, -1) if n == 1 or _fits(row[:n], font, width)
            )
            rows.append(row[:fit])
            row = row[fit:]
    return [*rows, row.rstrip()]


def _fits(text: str, font: Font, width: int) -> bool:
    return font.getlength(text) <= width


def _parts(line: str) -> list[str]:
    """Words with the space after them; wide letters alone."""
    parts: list[str] = []
    for letter in " ".join(line.split()):
        alone = unicodedata.east_asian_width(letter) in "WF"
        if parts and not alone and not parts[-1].endswith(" ") and not _wide(parts[-1]):
            parts[-1] += letter
        else:
            parts.append(letter)
    return parts


def _wide(part: str) -> bool:
    return unicodedata.east_asian_width(part[-1]) in "WF"
