"""Pictures full of type: what an image tower learns its letters from.

A picture of a few words holds a score of letters, a sheet hundreds, of many sizes, faces and
colours. Nothing is asked about it; where every letter lies is the lesson.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from heliodor.errors import InputError
from heliodor.teach.data.fonts import CHARACTERS, TextSplit
from heliodor.teach.data.glyphs import glyph, lay_down
from heliodor.teach.data.reading import MIN_FONT_SIZE, pick_face
from heliodor.teach.data.surfaces import ink_for, surface, wear
from heliodor.teach.data.words import reading_word

__all__ = ["Sheet", "draw_sheet"]

Rng = np.random.Generator

_LARGEST = 46  # pixels to the em
_MOST_LINES = 4  # of a block
_GROUND = 0.6  # share of blocks on a ground of their own
_SCRAMBLED = 0.3  # share of words that are any characters, so that rare ones are learnt too
_WRITTEN = tuple(letter for letter in CHARACTERS if letter != " ")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sheet:
    """A picture and its letters.

    Attributes:
        image: uint8 [H W 3].
        glyphs: uint8 [H W], the code of the letter at each pixel where that is below 256; 0 is no
            letter.
        letters: all that is written, a line of the sheet a line.
    """

    image: np.ndarray
    glyphs: np.ndarray
    letters: str


def draw_sheet(rng: Rng, *, size: int = 224, split: TextSplit = TextSplit.TRAIN) -> Sheet:
    """Blocks of one to four lines from top to bottom, each of one face, size and colour.

    Args:
        rng: the source of every choice.
        size: width and height in pixels, at least 64.
        split: whose faces.

    Raises:
        InputError: a size too small.
        DataError: no training font is installed.
    """
    if size < 2 * MIN_FONT_SIZE + 42:
        raise InputError(f"a sheet of {size} pixels has no room for type: at least 64 are wanted")
    ground = surface(rng, size, size)
    image, codes = Image.fromarray(ground.pixels), np.zeros((size, size), np.uint8)
    lines: list[str] = []
    smallest, top = _LARGEST, int(rng.integers(0, 8))
    while top + MIN_FONT_SIZE < size:
        em = int(MIN_FONT_SIZE * (_LARGEST / MIN_FONT_SIZE) ** (rng.random() ** 1.4))
        face = pick_face(rng, split).path
        pitch = int(em * rng.uniform(1.05, 1.35)) + 1
        height = pitch * int(rng.integers(1, _MOST_LINES + 1)) + 2
        tones = ground.tones
        if rng.random() < _GROUND:
            own = surface(rng, size, height)
            image.paste(Image.fromarray(own.pixels), (0, top))
            tones = own.tones
        ink = np.zeros((size, size), np.uint8)
        for line in range(top, top + height - pitch, pitch):
            pen = (int(rng.integers(-em // 4, em)), line + pitch - em // 4)
            lines.append(_write(rng, (ink, codes), pen, face, em))
        strip = max(0, top - em)
        image.paste(
            ink_for(rng, tones), (0, strip), Image.fromarray(ink[strip : top + height + em])
        )
        top += height
        smallest = min(smallest, em)
    worn = wear(rng, image, font_size=smallest)
    return Sheet(image=np.array(worn), glyphs=codes, letters="\n".join(lines))


def _word(rng: Rng) -> str:
    if rng.random() >= _SCRAMBLED:
        return reading_word(rng)
    picked = rng.integers(len(_WRITTEN), size=int(rng.integers(1, 7)))
    return "".join(_WRITTEN[int(index)] for index in picked)


def _write(
    rng: Rng, sheet: tuple[np.ndarray, np.ndarray], pen: tuple[int, int], face: Path, em: int
) -> str:
    """Words from a line's left end to the picture's edge, as ink and as codes -> the line."""
    (x, y), (ink, codes) = pen, sheet
    space, line = glyph(face, em, " ").advance, ""
    while x < ink.shape[1]:
        word, along = _word(rng), 0.0
        for letter in word:
            drawn = glyph(face, em, letter)
            code = ord(letter) if ord(letter) < 256 else 0
            lay_down(drawn, (x + round(along), y), ink, codes, code)
            along += drawn.advance
        x += int(along + space * rng.integers(1, 3)) + 1
        line += word + " "
    return line
