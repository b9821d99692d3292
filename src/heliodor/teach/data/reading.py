"""Pictures of a few written words, to learn to read and to be examined in it.

A picture holds 1 to 5 words on one to three lines, on a bare background or on a plate. Text never
leaves the picture and is never set smaller than `MIN_FONT_SIZE`: rather than that, lines are
wrapped and words are dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from heliodor.errors import InputError
from heliodor.see.prompt import read
from heliodor.teach.data.fonts import Face, TextSplit, faces, font
from heliodor.teach.data.surfaces import Colour, ink_for, surface, tone, wear
from heliodor.teach.data.words import lexicon_word, pick, reading_word

__all__ = ["MIN_FONT_SIZE", "PROMPT", "Reading", "draw_reading", "pick_face", "read_example"]

Rng = np.random.Generator

PROMPT = read()
"""What to ask of every picture here."""

MIN_FONT_SIZE = 11
"""Pixels to the em; at less the letters of some faces run together."""

_MARGIN = 4
_PAD = 3  # clear pixels kept around a block of text, so that turning and softening cut nothing
_PITCH = 1.25  # most distance of two lines, in font sizes
_PROBE = 32  # the font size at which a line is measured before its own size is known


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """A picture of text and what is known of it.

    Attributes:
        image: uint8 [H W 3].
        text: the words in reading order, joined by one space.
        ink: uint8 [H W], how far each pixel is covered by letters, before softening and grain.
        glyphs: uint8 [H W], one more than the place in `text` of the letter at each pixel; 0 is no
            letter.
        font_size: pixels to the em.
        face: the type face.
        lines: the text as it was wrapped.
    """

    image: np.ndarray
    text: str
    ink: np.ndarray
    glyphs: np.ndarray
    font_size: int
    face: Face
    lines: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Block:
    """Lines of text set in one face; the masks share a size, and `ink` has a clear border."""

    ink: Image.Image
    glyphs: Image.Image
    plate: Image.Image | None
    rim: Image.Image | None


def read_example(
    rng: Rng,
    *,
    size: int = 224,
    split: TextSplit = TextSplit.TRAIN,
    max_words: int = 5,
    max_characters: int | None = None,
) -> tuple[np.ndarray, str]:
    """A picture of text, and the text.

    Args:
        rng: the source of every choice; the same generator state gives the same picture.
        size: width and height in pixels, at least 32.
        split: TRAIN draws with installed families, TEST with the held-out ones. Draw the two from
            different seeds.
        max_words: most words, at least 1; the picture may hold fewer if they would not be legible.
        max_characters: most characters in all, at least 2; by default a sixth of `size`, as
            many as one line of small type holds. Lower it for easier pictures with larger letters.

    Returns:
        The picture, uint8 [size size 3], and its words joined by one space.

    Raises:
        InputError: `size`, `max_words` or `max_characters` is too small.
        DataError: no training font is installed.
    """
    reading = draw_reading(
        rng, size=size, split=split, max_words=max_words, max_characters=max_characters
    )
    return reading.image, reading.text


def draw_reading(
    rng: Rng,
    *,
    size: int = 224,
    split: TextSplit = TextSplit.TRAIN,
    max_words: int = 5,
    max_characters: int | None = None,
) -> Reading:
    """`read_example` with the layout beside the picture; arguments and errors are the same."""
    most = size // 6 if max_characters is None else max_characters
    if size < 32 or max_words < 1 or most < 2:
        raise InputError(
            f"a reading of size {size}, {max_words} words and {most} characters cannot be drawn; "
            "size must be at least 32, max_words at least 1 and max_characters at least 2"
        )
    face = pick_face(rng, split)
    words = _pick_words(rng, int(rng.integers(1, max_words + 1)), most)
    angle = rng.normal(0, 1.3) if rng.random() < 0.5 else 0.0
    plated = rng.random() < 0.22
    room = size - 2 * _MARGIN - (size // 12 if plated else 0)
    lines, largest = _fit(rng, words, face, room)
    font_size = int(rng.integers(max(MIN_FONT_SIZE, int(0.6 * largest)), largest + 1))
    while True:
        turned = _turn(_set(rng, lines, face, font_size, plated=plated), np.clip(angle, -3, 3))
        if max(turned.ink.size) <= size - 2:
            break
        font_size -= 1
        if font_size < MIN_FONT_SIZE:
            font_size, angle, plated = largest, 0.0, False  # which is known to fit
    surroundings = surface(rng, size, size)
    image, ink, glyphs = _place(rng, turned, surroundings.pixels, surroundings.tones)
    image = wear(rng, image, font_size=font_size)
    return Reading(
        image=np.array(image),
        text=" ".join(lines),
        ink=np.asarray(ink),
        glyphs=np.asarray(glyphs),
        font_size=font_size,
        face=face,
        lines=lines,
    )


def pick_face(rng: Rng, split: TextSplit, *, without: frozenset[str] = frozenset()) -> Face:
    """A face; families are equally likely, whatever the number of their faces.

    Args:
        rng: the source of the choice.
        split: whose faces.
        without: families to leave out, if any other is installed.

    Raises:
        DataError: no training font is installed.
    """
    available = faces(split)
    families = tuple(dict.fromkeys(face.family for face in available))
    family = pick(rng, tuple(name for name in families if name not in without) or families)
    return pick(rng, tuple(face for face in available if face.family == family))


def _pick_words(rng: Rng, count: int, max_characters: int) -> tuple[str, ...]:
    """Up to `count` words, at least one, whose joined length is at most `max_characters`."""
    words: list[str] = []
    left = max_characters
    for _ in range(count):
        word = reading_word(rng, left)
        if len(word) > left:
            word = lexicon_word(rng, left)
        words.append(word)
        left -= len(word) + 1
        if left < 2:
            break
    return tuple(words)


def _wrap(words: tuple[str, ...], count: int) -> tuple[str, ...]:
    """The words on `count` lines (or fewer, if there are fewer words) of similar length."""
    lines: list[str] = []
    rest = list(words)
    for left in range(min(count, len(words)), 0, -1):
        target = len(" ".join(rest)) / left
        line = [rest.pop(0)]
        while len(rest) >= left and len(" ".join([*line, rest[0]])) <= target + 1:
            line.append(rest.pop(0))
        lines.append(" ".join(line))
    if rest:
        lines[-1] = " ".join([lines[-1], *rest])
    return tuple(lines)


def _extent(lines: tuple[str, ...], face: Face, font_size: int) -> float:
    """The longer side, in pixels, of the ink of `lines` at `font_size`, widely spaced."""
    boxes = [font(face.path, font_size).getbbox(line, anchor="ls") for line in lines]
    width = max(box[2] for box in boxes) - min(box[0] for box in boxes)
    ink_height = max(box[3] for box in boxes) - min(box[1] for box in boxes)
    return max(width, ink_height + (len(lines) - 1) * ceil(_PITCH * font_size))


def _largest_size(lines: tuple[str, ...], face: Face, room: int) -> int:
    """The largest font size, a quarter of `room` at most, at which `lines` fit in its square."""
    in_proportion = int(_PROBE * room / _extent(lines, face, _PROBE))
    largest = min(in_proportion, max(room // 4, MIN_FONT_SIZE + 1))
    while largest > MIN_FONT_SIZE and _extent(lines, face, largest) > room:
        largest -= 1  # small letters are set on whole pixels and run wider than in proportion
    return largest


def _fit(rng: Rng, words: tuple[str, ...], face: Face, room: int) -> tuple[tuple[str, ...], int]:
    """Lines, and a legible font size at which they fit `room`: wraps, then drops words."""
    count = 1 if rng.random() < 0.5 else int(rng.integers(2, 4))
    while True:
        lines = _wrap(words, count)
        largest = _largest_size(lines, face, room)
        if largest > MIN_FONT_SIZE:
            return lines, largest
        if count < 3 and len(words) > count:
            count += 1
        elif len(words) > 1:
            words, count = words[:-1], 1
        else:
            words = tuple(word[:-1] for word in words)


def _set(rng: Rng, lines: tuple[str, ...], face: Face, font_size: int, *, plated: bool) -> _Block:
    """The lines as a mask, one under another, with a plate behind them if asked."""
    typeface = font(face.path, font_size)
    pitch = round(font_size * rng.uniform(1.05, _PITCH))
    boxes = [typeface.getbbox(line, anchor="ls") for line in lines]
    left = min(box[0] for box in boxes)
    width = ceil(max(box[2] for box in boxes) - left)
    top = min(box[1] + pitch * row for row, box in enumerate(boxes))
    bottom = max(box[3] + pitch * row for row, box in enumerate(boxes))
    gap = _PAD + (font_size // 3 if plated else 0)
    foot = font_size if plated and rng.random() < 0.3 else 0
    canvas = (width + 2 * gap, ceil(bottom - top) + 2 * gap + foot)
    ink, glyphs = Image.new("L", canvas), Image.new("L", canvas)
    draw = ImageDraw.Draw(ink)
    align = pick(rng, (0.0, 0.5, 0.5, 1.0))
    place = 1
    for row, (line, box) in enumerate(zip(lines, boxes, strict=True)):
        slack = width - (box[2] - left)
        start = gap - left + round(align * slack)
        corner = (start, gap - top + pitch * row)
        draw.text(corner, line, 255, typeface, anchor="ls")
        _number(glyphs, corner, line, typeface, place)
        place += len(line) + 1
    if not plated:
        return _Block(ink=ink, glyphs=glyphs, plate=None, rim=None)
    plate, rim = _plate(rng, canvas, font_size)
    if foot:
        _arrow(rng, rim, middle=canvas[1] - gap - foot // 2 + 1, height=foot * 2 // 3)
    return _Block(ink=ink, glyphs=glyphs, plate=plate, rim=rim)


def _number(
    mask: Image.Image,
    corner: tuple[float, float],
    line: str,
    typeface: ImageFont.FreeTypeFont,
    first: int,
) -> None:
    """Paints each letter of a line in its number, counted from `first`; no number is above 255."""
    draw = ImageDraw.Draw(mask)
    draw.fontmode = "1"
    for index, letter in enumerate(line):
        x = corner[0] + typeface.getlength(line[:index])
        draw.text((x, corner[1]), letter, min(255, first + index), typeface, anchor="ls")


def _plate(rng: Rng, canvas: tuple[int, int], font_size: int) -> tuple[Image.Image, Image.Image]:
    """A rounded plate that fills the canvas, and its rim (which may be empty), as masks."""
    shape = (1, 1, canvas[0] - 2, canvas[1] - 2)
    radius = int(rng.integers(0, max(2, font_size // 2)))
    plate, rim = Image.new("L", canvas), Image.new("L", canvas)
    ImageDraw.Draw(plate).rounded_rectangle(shape, radius, fill=255)
    if rng.random() < 0.6:
        ImageDraw.Draw(rim).rounded_rectangle(shape, radius, outline=255, width=1 + font_size // 24)
    return plate, rim


def _arrow(rng: Rng, mask: Image.Image, *, middle: int, height: int) -> None:
    """Adds an arrow to the left or right, centred on the row `middle`."""
    half, reach, x = height / 2, 1.4 * height, mask.width / 2
    way = pick(rng, (-1, 1))
    tip, neck, tail = x + way * reach / 2, x + way * (reach / 2 - half), x - way * reach / 2
    draw = ImageDraw.Draw(mask)
    draw.polygon([(tip, middle), (neck, middle - half), (neck, middle + half)], fill=255)
    draw.line([(tail, middle), (neck, middle)], fill=255, width=max(2, height // 4))


def _turn(block: _Block, angle: float) -> _Block:
    """The block turned by `angle` degrees, on a canvas grown to hold all of it."""
    if angle == 0:
        return block

    def turn(mask: Image.Image) -> Image.Image:
        return mask.rotate(angle, Image.Resampling.BICUBIC, expand=True)

    return _Block(
        ink=turn(block.ink),
        glyphs=block.glyphs.rotate(angle, Image.Resampling.NEAREST, expand=True),
        plate=None if block.plate is None else turn(block.plate),
        rim=None if block.rim is None else turn(block.rim),
    )


def _place(
    rng: Rng, block: _Block, pixels: np.ndarray, tones: tuple[Colour, ...]
) -> tuple[Image.Image, Image.Image, Image.Image]:
    """Paints the block somewhere on `pixels` [H W 3]: the picture, ink and numbers [H W]."""
    image = Image.fromarray(pixels)
    width, height = block.ink.size
    corner = (
        int(rng.integers(1, image.width - width)),
        int(rng.integers(1, image.height - height)),
    )
    if block.plate is not None:
        colour = tone(rng, dark=bool(rng.random() < 0.45))
        image.paste(colour, corner, block.plate)
        tones = (colour,)
    colour = ink_for(rng, tones)
    if block.rim is not None:
        image.paste(colour, corner, block.rim)
    image.paste(colour, corner, block.ink)
    ink = Image.new("L", image.size)
    ink.paste(block.ink, corner)
    glyphs = Image.new("L", image.size)
    glyphs.paste(block.glyphs, corner)
    return image, ink, glyphs
