"""Where the pieces of an answer are in the picture: letters of a reading, things of a scene."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from heliodor.see.boxes import CODES_PER_OBJECT
from heliodor.teach.data.coverage import cover_of
from heliodor.teach.data.documents import Document
from heliodor.teach.data.example import Spot
from heliodor.teach.data.language import caption_parts
from heliodor.teach.data.question import Question
from heliodor.teach.data.reading import Reading
from heliodor.teach.data.scenes import Scene

__all__ = ["answer_spots", "letter_spots", "thing_spots"]

_LAST = 254  # letter of a reading that has a number of its own
_CELLS = math.isqrt(CODES_PER_OBJECT)  # of a box in a row and in a column, a code for each
_CODE = re.compile(r"<seg\d{3}>")
_MUCH = 0.4  # of what the fullest patch shows: patches that show less are left out


def letter_spots(reading: Reading, patch: int) -> tuple[Spot, ...]:
    """A spot for each letter of a reading's text that shows.

    Args:
        reading: of a size that patches fill.
        patch: side of a patch in pixels.
    """
    count = min(len(reading.text), _LAST)
    return _letters(_ink(reading.glyphs, count, patch))


def answer_spots(document: Document, answer: str, patch: int) -> tuple[Spot, ...]:
    """A spot for each letter of an answer that stands in a document, once.

    Args:
        document: of a size that patches fill.
        answer: to a question about it; a text of its own counts before one within another.
        patch: side of a patch in pixels.
    """
    texts = f"\n{document.letters}\n"
    whole = f"\n{answer}\n"
    if texts.count(whole) == 1:
        start = texts.index(whole)
    elif answer and document.letters.count(answer) == 1:
        start = document.letters.index(answer)
    else:
        return ()
    ink = _ink(document.numbers, len(document.letters), patch)
    return _letters(ink[start : start + len(answer)])


def _ink(numbers: NDArray[np.generic], count: int, patch: int) -> NDArray[np.int64]:
    """How many pixels of each patch hold each letter, counted from 1: [count N]."""
    rows, columns = np.nonzero(numbers)
    grid = numbers.shape[0] // patch
    place = rows // patch * grid + columns // patch
    number = numbers[rows, columns].astype(np.int64)
    size = grid * grid
    every = max(count + 1, int(number.max(initial=0)) + 1)
    return np.bincount(number * size + place, minlength=every * size).reshape(every, size)[
        1 : count + 1
    ]


def _letters(ink: NDArray[np.int64]) -> tuple[Spot, ...]:
    """A spot for each letter that shows, of ink [letters N]."""
    return tuple(
        Spot(start=index, stop=index + 1, patches=_fullest(shown))
        for index, shown in enumerate(ink)
        if shown.any()
    )


def thing_spots(scene: Scene, question: Question, patch: int) -> tuple[Spot, ...]:
    """A spot for each piece of an answer: of captions, boxes and masks, the whole to a question.

    Args:
        scene: of a size that patches fill.
        question: about it, its answer complete.
        patch: side of a patch in pixels.
    """
    found: list[Spot] = []
    start = 0
    for text, things in _pieces(scene, question):
        start = question.suffix.index(text, start)
        shown = np.sum([cover_of(scene.things[index].mask, patch) for index in things], axis=0)
        if shown.any():
            found += _along(text, start, _fullest(shown), _cells(scene, things[0], patch))
        start += len(text)
    return tuple(found)


def _along(
    text: str, start: int, patches: tuple[int, ...], cells: Sequence[tuple[int, ...]]
) -> Iterator[Spot]:
    """A spot for each mask code of a piece, its cell of the box, and for what is around them."""
    codes = [(match.start(), match.end()) for match in _CODE.finditer(text)]
    if codes:
        yield Spot(start=start, stop=start + codes[0][0], patches=patches)
        for (first, behind), cell in zip(codes, cells, strict=True):
            yield Spot(start=start + first, stop=start + behind, patches=cell)
    rest = codes[-1][1] if codes else 0
    yield Spot(start=start + rest, stop=start + len(text), patches=patches)


def _cells(scene: Scene, index: int, patch: int) -> list[tuple[int, ...]]:
    """The patches under each of the cells that a mask's codes stand for, row by row of the box."""
    x0, y0, x1, y1 = scene.things[index].box
    across = np.linspace(x0, x1, _CELLS + 1)
    down = np.linspace(y0, y1, _CELLS + 1)
    grid = scene.size // patch
    edges = np.arange(grid + 1) * patch
    columns = [_overlap(edges, left, right) for left, right in pairwise(across)]
    rows = [_overlap(edges, top, bottom) for top, bottom in pairwise(down)]
    return [_fullest(np.outer(row, column).ravel()) for row in rows for column in columns]


def _overlap(edges: NDArray[np.int64], first: float, behind: float) -> NDArray[np.float64]:
    """How much of a stretch lies between each two edges."""
    shared = np.minimum(edges[1:], behind) - np.maximum(edges[:-1], first)
    return shared.clip(0.0)


def _pieces(scene: Scene, question: Question) -> Sequence[tuple[str, tuple[int, ...]]]:
    """The pieces of an answer in order, with the things each stands for."""
    if question.task == "caption":
        return caption_parts(scene, question.kind.removeprefix("caption_"))
    if question.task == "ask":
        return [(question.suffix, question.things)] if question.things else []
    if question.things:
        pieces = question.suffix.split(" ; ")
        return [(text, (i,)) for text, i in zip(pieces, question.things, strict=True)]
    return ()


def _fullest(shown: NDArray[np.floating] | NDArray[np.int64]) -> tuple[int, ...]:
    """The patches that show most, at least one, of what each shows [N]."""
    return tuple(int(number) for number in np.nonzero(shown >= _MUCH * shown.max())[0])
