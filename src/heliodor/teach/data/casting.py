"""Who is in a scene: concepts by the rules of its split, then each one's style and colour."""

from __future__ import annotations

from functools import cache

import numpy as np

from heliodor.errors import DataError
from heliodor.teach.data.artwork import styles_of
from heliodor.teach.data.concepts import Concept, held_out_pair, load_concepts, partners
from heliodor.teach.data.looks import Look
from heliodor.teach.data.palette import COLOURS, NamedColour
from heliodor.teach.data.splits import Split

__all__ = ["MOST", "available", "choose_concepts", "choose_looks"]

_NUMBERS = (0.22, 0.26, 0.22, 0.16, 0.14)  # how often one, two, ... five things
MOST = len(_NUMBERS)
"""Things in a scene at most."""
_TINTED = 0.35


@cache
def available(styles: tuple[str, ...]) -> tuple[Concept, ...]:
    """The concepts that at least one of the styles draws."""
    pool = tuple(c for c in load_concepts() if styles_of(c, styles))
    if not pool:
        raise DataError("no artwork style was given: pass at least one, for instance 'noto'")
    return pool


def choose_concepts(
    rng: np.random.Generator, split: Split, pool: tuple[Concept, ...], most: int = MOST
) -> list[Concept]:
    """What is in the scene, at most so many things, repeats included, in random order."""
    shares = np.array(_NUMBERS[:most])
    number = 1 + int(rng.choice(len(shares), p=shares / shares.sum()))
    chosen: list[Concept] = []
    if split is Split.PAIRS:
        number = max(number, 2)
        chosen = _held_out_couple(rng, pool)
    kinds = number
    if rng.random() < 0.4:
        kinds = max(len(chosen), int(rng.integers(1, number + 1)))
    while len(chosen) < kinds:
        concept = pool[int(rng.integers(len(pool)))]
        meets = split is not Split.PAIRS and any(held_out_pair(concept, c) for c in chosen)
        if concept not in chosen and not meets:
            chosen.append(concept)
    favourite = chosen[int(rng.integers(kinds))]
    even = rng.random() < 0.3
    for _ in range(number - kinds):
        chosen.append(chosen[int(rng.integers(kinds))] if even else favourite)
    return [chosen[int(i)] for i in rng.permutation(number)]


def _held_out_couple(rng: np.random.Generator, pool: tuple[Concept, ...]) -> list[Concept]:
    """Two concepts that never meet in training."""
    while True:
        first = pool[int(rng.integers(len(pool)))]
        others = [c for c in partners(first) if c in pool]
        if others:
            return [first, others[int(rng.integers(len(others)))]]


def choose_looks(
    rng: np.random.Generator,
    concepts: list[Concept],
    styles: tuple[str, ...],
    ground_colour: str | None,
    strength: float = 1.0,
) -> list[Look]:
    """Style, colour and outline of everything; things of one kind are often alike."""
    favourite = styles[int(rng.integers(len(styles)))] if rng.random() < 0.5 else None
    alike = rng.random() < 0.6
    seen: dict[int, Look] = {}
    looks: list[Look] = []
    for concept in concepts:
        look = seen.get(concept.id)
        if look is None or not alike:
            choices = styles_of(concept, styles)
            style = choices[int(rng.integers(len(choices)))]
            look = Look(
                concept=concept,
                style=favourite if favourite in choices else style,
                side=1.0,
                colour=_choose_colour(rng, ground_colour, strength),
                strength=strength,
            )
        seen[concept.id] = look
        looks.append(look)
    return looks


def _choose_colour(
    rng: np.random.Generator, ground_colour: str | None, strength: float
) -> NamedColour | None:
    """A colour to paint a thing in, never that of the plain ground behind it; mostly None."""
    if rng.random() >= _TINTED * min(1.0, strength):
        return None
    choices = [c for c in COLOURS if c.name != ground_colour]
    return choices[int(rng.integers(len(choices)))]
