"""What every data set is turned into: a picture and the turns it is trained or asked on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TASKS = ("caption", "ask", "detect", "segment", "read", "document")


@dataclass(frozen=True, kw_only=True, slots=True)
class Spot:
    """What a piece of an answer stands for in the picture.

    Attributes:
        start: the piece's first character in the answer.
        stop: one behind its last.
        patches: numbers of the patches that mostly show it, row by row from the top left; one at
            least.
    """

    start: int
    stop: int
    patches: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One prompt and the answer to learn.

    Attributes:
        task: one of ``TASKS``.
        prompt: the words before the newline.
        suffix: the words to predict, without ``<eos>``.
        spelled: whether the answer is learnt letter by letter, not in the vocabulary's longest
            pieces: what is read off a picture is there letter by letter too.
        spots: where pieces of the answer are in the picture, as far as it is known; of use where
            the example has a cover.
    """

    task: str
    prompt: str
    suffix: str
    spelled: bool = False
    spots: tuple[Spot, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """A picture with one or more turns; they share the image tower's work.

    Attributes:
        image: uint8 [H W 3].
        turns: at least one.
        cover: what lies in each patch, uint8 [N KINDS+EDGES]; None if it is not known.
    """

    image: NDArray[np.uint8]
    turns: tuple[Turn, ...]
    cover: NDArray[np.uint8] | None = None
