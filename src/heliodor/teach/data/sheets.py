"""Pictures full of type: what an image tower learns its letters from.

A picture of a few words holds a score of letters, a sheet hundreds, of many sizes, faces and
colours. Nothing is asked about it; where every letter lies is the lesson.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from heliodor.errors import InputError
from heliodor.teach.data.fonts import CHARACTERS, TextSplit, font
from heliodor.teach.data.reading import MIN_FONT_SIZE, pick_face
from heliodor.teach.data.surfaces import Colour, ink_for, surface, wear
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
    image, glyphs = Image.fromarray(ground.pixels), Image.new("L", (size, size))
    picture, codes = ImageDraw.Draw(image), ImageDraw.Draw(glyphs)
    codes.fontmode = "1"
    lines: list[str] = []
    smallest, top = _LARGEST, int(rng.integers(0, 8))
    while top + MIN_FONT_SIZE < size:
        em = int(MIN_FONT_SIZE * (_LARGEST / MIN_FONT_SIZE) ** (rng.random() ** 1.4))
        typeface = font(pick_face(rng, split).path, em)
        pitch = int(em * rng.uniform(1.05, 1.35)) + 1
        height = pitch * int(rng.integers(1, _MOST_LINES + 1)) + 2
        tones = ground.tones
        if rng.random() < _GROUND:
            own = surface(rng, size, height)
            image.paste(Image.fromarray(own.pixels), (0, top))
            tones = own.tones
        ink = ink_for(rng, tones)
        for line in range(top, top + height - pitch, pitch):
            corner = (int(rng.integers(-em // 4, em)), line + pitch - em // 4)
            lines.append(_write(rng, (picture, codes), corner, typeface, ink))
        top += height
        smallest = min(smallest, em)
    worn = wear(rng, image, font_size=smallest)
    return Sheet(image=np.array(worn), glyphs=np.array(glyphs), letters="\n".join(lines))


def _word(rng: Rng) -> str:
    if rng.random() >= _SCRAMBLED:
        return reading_word(rng)
    picked = rng.integers(len(_WRITTEN), size=int(rng.integers(1, 7)))
    return "".join(_WRITTEN[int(index)] for index in picked)


def _write(
    rng: Rng,
    sheet: tuple[ImageDraw.ImageDraw, ImageDraw.ImageDraw],
    corner: tuple[int, int],
    typeface: ImageFont.FreeTypeFont,
    ink: Colour,
) -> str:
    """Words from a line's left end to the picture's edge, with ink and as codes -> the line."""
    (x, y), space, line = corner, typeface.getlength(" "), ""
    picture, codes = sheet
    while x < picture.im.size[0]:
        word = _word(rng)
        picture.text((x, y), word, ink, typeface, anchor="ls")
        for index, letter in enumerate(word):
            if ord(letter) < 256:
                place = (x + typeface.getlength(word[:index]), y)
                codes.text(place, letter, ord(letter), typeface, anchor="ls")
        x += int(typeface.getlength(word) + space * rng.integers(1, 3)) + 1
        line += word + " "
    return line
