"""Where the pieces of an answer are in the picture: letters of a reading, things of a scene."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from heliodor.teach.data.example import Spot
from heliodor.teach.data.language import caption_parts
from heliodor.teach.data.question import Question
from heliodor.teach.data.reading import Reading
from heliodor.teach.data.scenes import Scene

__all__ = ["letter_spots", "thing_spots"]

_MUCH = 0.4  # of what the fullest patch shows: patches that show less are left out


def letter_spots(reading: Reading, patch: int) -> tuple[Spot, ...]:
    """A spot for each letter of a reading's text that shows.

    Args:
        reading: of a size that patches fill.
        patch: side of a patch in pixels.
    """
    rows, columns = np.nonzero(reading.glyphs)
    grid = reading.glyphs.shape[0] // patch
    place = rows // patch * grid + columns // patch
    number = reading.glyphs[rows, columns].astype(np.int64)
    shown = np.bincount(number * grid * grid + place, minlength=256 * grid * grid)
    found: list[Spot] = []
    for index, ink in enumerate(shown.reshape(256, grid * grid)[1:255]):
        if ink.any():
            found.append(Spot(start=index, stop=index + 1, patches=_fullest(ink)))
    return tuple(found)


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
        shown = sum(_shown(scene, index, patch) for index in things)
        if np.any(shown):
            found.append(Spot(start=start, stop=start + len(text), patches=_fullest(shown)))
        start += len(text)
    return tuple(found)


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


def _shown(scene: Scene, index: int, patch: int) -> NDArray[np.float32]:
    """The share of each patch that a thing covers, [N]."""
    grid = scene.size // patch
    mask = scene.things[index].mask.reshape(grid, patch, grid, patch)
    return mask.mean((1, 3), dtype=np.float32).ravel()


def _fullest(shown: NDArray[np.generic] | float) -> tuple[int, ...]:
    """The patches that show most, at least one."""
    each = np.asarray(shown, np.float32)
    return tuple(int(number) for number in np.nonzero(each >= _MUCH * each.max())[0])
