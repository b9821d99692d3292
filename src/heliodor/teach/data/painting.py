"""Pictures to learn painting from: one to three things, large, on a simple ground, and what to say.

A description is what a caption tells, whatever its language: which things, how many, their colours,
where the first two stand to each other, the ground. Everything in it is true of its scene; where
two things are not clearly apart, or a thing wears its own colours, nothing is said of it.
:mod:`~heliodor.teach.data.painting_words` puts it in words.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np
from PIL import Image

from heliodor.teach.data.artwork import styles_of
from heliodor.teach.data.casting import available, choose_concepts
from heliodor.teach.data.concepts import Concept
from heliodor.teach.data.language import kinds_of
from heliodor.teach.data.layout import arrange
from heliodor.teach.data.looks import Look
from heliodor.teach.data.palette import COLOURS, NamedColour, colour_named, vary
from heliodor.teach.data.scenes import Scene, Thing, labelled
from heliodor.teach.data.splits import Split

__all__ = ["RELATIONS", "STYLES", "Description", "Group", "describe", "paint_scene"]

STYLES = ("noto", "twemoji", "fluent-emoji-flat")
"""Artwork that is painted: three flat styles, since every further one is another way to draw all
237 things."""

RELATIONS = ("left", "right", "above", "below")
MOST = 3
"""Things in a scene at most."""

_SIDES = ((60, 112), (46, 74), (34, 56))  # pixels of 128, by number
_OVERLAP = 0.04
_TINTED = 0.6
_ALIKE = 0.85  # share of kinds whose things look the same
_PLAIN = 0.8
_WHITE = 0.25  # of the plain grounds
_APART = 0.15  # of the side: how far two middles are apart to be left, right, above, below
_TELL_COLOUR, _TELL_RELATION, _TELL_GROUND = 0.9, 0.8, 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Things of one kind.

    Attributes:
        concept: what they are.
        number: how many, 1 to 3.
        colour: English name of the colour they are all painted in; None to leave it open.
    """

    concept: Concept
    number: int = 1
    colour: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """What is to be painted.

    Attributes:
        groups: kinds of things, at least one.
        relation: where the first group stands to the second, of ``RELATIONS``; both are one thing.
        ground: English name of the ground's colour; None to leave it open.
    """

    groups: tuple[Group, ...]
    relation: str | None = None
    ground: str | None = None


def paint_scene(
    rng: np.random.Generator,
    *,
    size: int = 128,
    split: Split = Split.TRAIN,
    styles: tuple[str, ...] = STYLES,
    strength: float = 0.35,
    most: int = MOST,
) -> Scene:
    """Draw a scene.

    Args:
        rng: where chance comes from; ``splits.scene_rng`` gives every scene its own.
        size: side of the picture in pixels.
        split: which pairs of concepts may meet.
        styles: artwork to draw from.
        strength: how much looks vary, above 0; 1 as in the scenes of other tasks.
        most: things at most, 1..3.

    Raises:
        DataError: ``styles`` is empty or unknown.
    """
    concepts = choose_concepts(rng, split, available(styles), most)
    ground, ground_colour = _ground(rng, size)
    low, high = (side * size / 128 for side in _SIDES[len(concepts) - 1])
    looks: list[Look] = []
    seen: dict[int, tuple[str, NamedColour | None]] = {}
    for concept in concepts:
        if concept.id not in seen or rng.random() >= _ALIKE:
            choices = styles_of(concept, styles)
            style = choices[int(rng.integers(len(choices)))]
            seen[concept.id] = style, _colour(rng, ground_colour)
        style, colour = seen[concept.id]
        side = float(rng.uniform(low, high))
        looks.append(
            Look(concept=concept, style=style, side=side, colour=colour, strength=strength)
        )
    drawn = arrange(rng, looks, ground, _OVERLAP)
    canvas = ground.copy()
    for item in drawn:
        canvas.paste(item.rgb, (item.x, item.y), item.alpha)
    return labelled(np.asarray(canvas), drawn, ground_colour)


def describe(rng: np.random.Generator, scene: Scene, *, everything: bool = False) -> Description:
    """What a caption of a scene tells.

    Args:
        rng: chooses what is told and in which order.
        scene: the scene.
        everything: tell every colour and relation that is true, and not the ground: for questions
            whose answers are looked for in a painting.
    """
    kinds = list(kinds_of(scene).items())
    kinds = [kinds[int(index)] for index in rng.permutation(len(kinds))]
    relation = None
    if everything or rng.random() < _TELL_RELATION:
        kinds, relation = _related(rng, scene, kinds)
    groups: list[Group] = []
    for concept, indices in kinds:
        colours = {scene.things[index].colour for index in indices}
        (colour,) = colours if len(colours) == 1 else (None,)
        told = everything or rng.random() < _TELL_COLOUR
        number = len(indices)
        groups.append(Group(concept=concept, number=number, colour=colour if told else None))
    ground = scene.background_colour
    told = not everything and rng.random() < _TELL_GROUND
    return Description(groups=tuple(groups), relation=relation, ground=ground if told else None)


_Kinds = list[tuple[Concept, tuple[int, ...]]]


def _related(rng: np.random.Generator, scene: Scene, kinds: _Kinds) -> tuple[_Kinds, str | None]:
    """Two single things that are clearly apart, brought to the front, and how they stand."""
    found: list[tuple[int, int, str]] = []
    for one, other in permutations(range(len(kinds)), 2):
        first, second = kinds[one][1], kinds[other][1]
        if len(first) == len(second) == 1:
            words = _relations(scene.things[first[0]], scene.things[second[0]], scene.size)
            found += [(one, other, word) for word in words]
    if not found:
        return kinds, None
    one, other, word = found[int(rng.integers(len(found)))]
    rest = [kind for place, kind in enumerate(kinds) if place not in (one, other)]
    return [kinds[one], kinds[other], *rest], word


def _relations(first: Thing, second: Thing, size: int) -> list[str]:
    """Where the first stands to the second, along each axis on which they are clearly apart."""
    words: list[str] = []
    for axis, (before, behind) in enumerate((RELATIONS[:2], RELATIONS[2:])):
        gap = (first.centre[axis] - second.centre[axis]) / size
        if abs(gap) > _APART:
            words.append(before if gap < 0 else behind)
    return words


def _colour(rng: np.random.Generator, ground: str | None) -> NamedColour | None:
    if rng.random() >= _TINTED:
        return None
    choices = [colour for colour in COLOURS if colour.name != ground]
    return choices[int(rng.integers(len(choices)))]


def _ground(rng: np.random.Generator, size: int) -> tuple[Image.Image, str | None]:
    """A plain ground and its colour's name, or one that fades from top to bottom."""
    if rng.random() < _PLAIN:
        white = rng.random() < _WHITE
        colour = colour_named("white") if white else COLOURS[int(rng.integers(len(COLOURS)))]
        return Image.new("RGB", (size, size), vary(rng, colour)), colour.name
    top, bottom = rng.uniform(90.0, 250.0, (2, 3))
    share = np.linspace(0.0, 1.0, size)[:, None, None]
    pixels = top + (bottom - top) * share
    return Image.fromarray(np.broadcast_to(pixels, (size, size, 3)).astype(np.uint8)), None
