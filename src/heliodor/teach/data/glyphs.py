"""Letters drawn once and kept, for pictures that hold hundreds of them.

To draw a letter from its outline costs a third of a millisecond; to lay a kept one down costs a few
microseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from heliodor.teach.data.fonts import font

__all__ = ["Glyph", "glyph", "lay_down"]

_SOLID = 128  # ink from which on a pixel is the letter's


@dataclass(frozen=True, kw_only=True, slots=True)
class Glyph:
    """A letter of a face at a size.

    Attributes:
        ink: uint8 [h w], how far each pixel is covered.
        solid: bool [h w], pixels that are the letter's.
        left: columns from the pen to the first column, below 0 for what hangs back.
        top: rows from the baseline to the first row, below 0 for what stands above it.
        advance: pixels from this letter's pen to the next one's.
    """

    ink: np.ndarray
    solid: np.ndarray
    left: int
    top: int
    advance: float


@cache
def glyph(path: Path, size: int, letter: str) -> Glyph:
    """One letter of the font file at ``path``, ``size`` pixels to the em, drawn the first time."""
    typeface = font(path, size)
    mask, (left, top) = typeface.getmask2(letter, "L", anchor="ls")
    width, height = mask.size
    ink = np.array(mask, np.uint8).reshape(height, width)
    return Glyph(
        ink=ink,
        solid=ink >= _SOLID,
        left=int(left),
        top=int(top),
        advance=typeface.getlength(letter),
    )


def lay_down(
    what: Glyph, pen: tuple[int, int], ink: np.ndarray, codes: np.ndarray, code: int
) -> None:
    """Add a letter to a picture of ink and one of codes; what lies outside them is cut off.

    Args:
        what: the letter.
        pen: x and y, y of the baseline.
        ink: uint8 [H W], how far each pixel is covered; the darker counts.
        codes: uint8 [H W]; the letter's pixels become ``code``.
        code: 0 leaves them.
    """
    height, width = ink.shape
    x, y = pen[0] + what.left, pen[1] + what.top
    x0, y0 = max(0, x), max(0, y)
    x1, y1 = min(width, x + what.ink.shape[1]), min(height, y + what.ink.shape[0])
    if x1 <= x0 or y1 <= y0:
        return
    inside = slice(y0 - y, y1 - y), slice(x0 - x, x1 - x)
    there = ink[y0:y1, x0:x1]
    np.maximum(there, what.ink[inside], out=there)
    if code:
        codes[y0:y1, x0:x1][what.solid[inside]] = code
