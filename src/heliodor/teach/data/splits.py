"""Which scenes train and which examine: three splits whose random streams never meet."""

from __future__ import annotations

import enum

import numpy as np

__all__ = ["Split", "scene_rng"]

_ENTROPY = 0x48656C696F646F72  # "Heliodor"


class Split(enum.Enum):
    """What a scene is for.

    TRAIN and LAYOUTS never show both concepts of a held-out pair; every PAIRS scene shows at
    least one such pair. LAYOUTS and PAIRS use seeds that training never draws.
    """

    TRAIN = "train"
    LAYOUTS = "layouts"
    PAIRS = "pairs"


_STREAMS = {Split.TRAIN: 0, Split.LAYOUTS: 1, Split.PAIRS: 2}


def scene_rng(split: Split, index: int, purpose: int = 0) -> np.random.Generator:
    """The random generator of one scene.

    Args:
        split: Each split has streams of its own.
        index: The scene's number, 0 or more; the same number gives the same scene for ever.
        purpose: A second stream of the same scene, for instance 1 for its questions.

    Raises:
        ValueError: a negative number.
    """
    seed = np.random.SeedSequence([_ENTROPY, _STREAMS[split], purpose, index])
    return np.random.Generator(np.random.PCG64(seed))
