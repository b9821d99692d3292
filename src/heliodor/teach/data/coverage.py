"""What lies in each patch of a picture: things, the colours they are painted in, letters.

N patches, row by row from the top left; KINDS columns: concepts by their id, then colours, then the
printable characters of ASCII twice, for the left half of the patch and the right one: small type
has two or three letters in a patch, and reading wants their order. Four more columns hold the edges
of the thing that fills most of the patch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from heliodor.teach.data.concepts import load_concepts
from heliodor.teach.data.documents import Document
from heliodor.teach.data.palette import COLOURS
from heliodor.teach.data.reading import Reading
from heliodor.teach.data.scenes import Scene
from heliodor.teach.data.sheets import Sheet

__all__ = [
    "ALPHABET",
    "EDGES",
    "KINDS",
    "LETTERS",
    "THINGS",
    "cover_codes",
    "cover_letters",
    "cover_of",
    "cover_things",
    "letter_of",
]

THINGS = len(load_concepts())
"""The first columns."""
_COLUMNS = {colour.name: THINGS + index for index, colour in enumerate(COLOURS)}
LETTERS = THINGS + len(COLOURS)
"""The column of the first letter of the left half; the right half's follow the left's."""
_FIRST, _LAST = "!", "~"
ALPHABET = ord(_LAST) - ord(_FIRST) + 1
"""Columns of a half."""
KINDS = LETTERS + 2 * ALPHABET
"""How many kinds there are."""
_ENOUGH = 12.0  # pixels of ink by which a letter may be told
EDGES = 4
"""Columns behind the kinds: x0, y0, x1, y1 in 1/255 of the side."""


def cover_things(scene: Scene, patch: int) -> NDArray[np.uint8]:
    """Which share of each patch each thing covers, and each colour that things are painted in.

    Args:
        scene: of a size that patches fill.
        patch: side of a patch in pixels.

    Returns:
        uint8 [N KINDS+EDGES], shares of 255; above 0 wherever anything is seen.
    """
    grid = scene.size // patch
    found = np.zeros((grid * grid, KINDS + EDGES), np.float32)
    most = np.zeros(grid * grid, np.float32)
    for thing in scene.things:
        share = cover_of(thing.mask, patch)
        found[share > most, KINDS:] = np.divide(thing.box, scene.size)
        most = np.maximum(most, share)
        found[:, thing.concept.id] += share
        if thing.colour is not None:
            found[:, _COLUMNS[thing.colour]] += share
    return np.ceil(found * 255).clip(0, 255).astype(np.uint8)


def cover_of(mask: NDArray[np.bool_], patch: int) -> NDArray[np.float32]:
    """The share of each patch that a mask covers.

    Args:
        mask: bool [S S], of a size that patches fill.
        patch: side of a patch in pixels.

    Returns:
        float32 [N], 0..1, row by row from the top left.
    """
    grid = len(mask) // patch
    return mask.reshape(grid, patch, grid, patch).mean((1, 3), dtype=np.float32).ravel()


def cover_letters(reading: Reading, patch: int) -> NDArray[np.uint8]:
    """How much a letter is what each half shows, the most where a letter is there twice.

    That is the larger of two shares: of the letter, how much lies in the half; of the ink in the
    half, how much is the letter's, where there is enough ink to tell. So small letters count that
    are whole in a half, and large ones of which it shows a part.

    Args:
        reading: of a size that patches fill.
        patch: side of a patch in pixels.

    Returns:
        uint8 [N KINDS+EDGES], shares of 255; characters outside ASCII are left out, edges are 0.
    """
    counts = _by_half(reading.glyphs, patch)
    share = np.maximum(counts / np.maximum(1.0, counts.sum((0, 1))), _of_ink(counts))
    found = np.zeros((2, len(share[0]), ALPHABET), np.float32)
    for number, letter in enumerate(reading.text[:255], 1):
        if _FIRST <= letter <= _LAST:
            column = ord(letter) - ord(_FIRST)
            found[..., column] = np.maximum(found[..., column], share[..., number])
    return _lettered(found)


def cover_codes(document: Document | Sheet, patch: int) -> NDArray[np.uint8]:
    """The same, letters counting in letters of the picture's middling size.

    Args:
        document: of a size that patches fill.
        patch: side of a patch in pixels.

    Returns:
        uint8 [N KINDS+EDGES], shares of 255; characters outside ASCII are left out, edges are 0.
    """
    codes = slice(ord(_FIRST), ord(_LAST) + 1)
    counts = _by_half(document.glyphs, patch)
    written = np.array([document.letters.count(chr(code)) for code in range(256)])
    letter = counts.sum((0, 1)) / np.maximum(1, written)
    share = np.maximum((counts / np.maximum(1.0, letter)).clip(0, 1), _of_ink(counts))
    return _lettered(share[..., codes])


def letter_of(column: int) -> str:
    """The character that a column of either half is about."""
    return chr(ord(_FIRST) + (column - LETTERS) % ALPHABET)


def _of_ink(counts: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each letter's share of a half's ink, less where there is little: [2 N 256] -> the same."""
    ink = counts[..., 1:].sum(-1, keepdims=True)
    return counts / np.maximum(ink, _ENOUGH)


def _by_half(glyphs: NDArray[np.uint8], patch: int) -> NDArray[np.float32]:
    """Pixels of each number in the left and right half of each patch, [2 N 256]."""
    grid = glyphs.shape[0] // patch
    rows, columns = np.nonzero(glyphs)
    half = (columns % patch) * 2 // patch
    place = (half * grid + rows // patch) * grid + columns // patch
    numbers = place * 256 + glyphs[rows, columns]
    counts = np.bincount(numbers, minlength=2 * grid * grid * 256)
    return counts.reshape(2, grid * grid, 256).astype(np.float32)


def _lettered(share: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Shares of letters [2 N letters] in their columns."""
    found = np.zeros((share.shape[1], KINDS + EDGES), np.uint8)
    found[:, LETTERS:KINDS] = np.round(np.concatenate(share, axis=1) * 255)
    return found
