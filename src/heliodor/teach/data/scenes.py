"""Scenes: one to five things on a ground, with the box and mask of everything in sight.

A scene is a function of its random generator. Things are painted back to front, so a mask is what
is left of a thing after those in front of it, and a box is the extent of that mask. A layout that
hides too much of a thing is thrown away: whatever is in a scene is labelled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps

from heliodor.teach.data.artwork import TRAIN_STYLES
from heliodor.teach.data.backgrounds import background
from heliodor.teach.data.casting import MOST, available, choose_concepts, choose_looks
from heliodor.teach.data.concepts import Concept
from heliodor.teach.data.layout import Drawn, arrange
from heliodor.teach.data.splits import Split

__all__ = ["Scene", "Thing", "labelled", "render_scene", "render_single"]

_SIDES = ((70, 185), (50, 140), (40, 112), (34, 92), (30, 80))  # pixels of 224, by number
_SHADE = [v * 2 // 5 for v in range(256)]  # a shadow is two fifths as dense as its thing
_CROWDED = 0.3  # share of scenes whose things may cover each other more


@dataclass(frozen=True, kw_only=True, slots=True)
class Thing:
    """One thing in a scene.

    Attributes:
        concept: What it is.
        style: The artwork style it is drawn in.
        box: (x0, y0, x1, y1) in pixels, the extent of ``mask``; x1 and y1 lie just outside it.
        mask: bool [H W], the pixels where it is seen.
        colour: English name of the colour it is painted in, None if in its own colours.
        visible: Share of its pixels that nothing hides and no border cuts, 0..1.
    """

    concept: Concept
    style: str
    box: tuple[float, float, float, float]
    mask: NDArray[np.bool_]
    colour: str | None
    visible: float

    @property
    def centre(self) -> tuple[float, float]:
        """Middle (x, y) of the box in pixels."""
        x0, y0, x1, y1 = self.box
        return (x0 + x1) / 2, (y0 + y1) / 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """A picture and what is in it.

    Attributes:
        image: uint8 [H W 3].
        things: Everything in it, from left to right by the middle of the box.
        background_colour: Its name where the ground is plain, otherwise None.
        size: H and W in pixels.
    """

    image: NDArray[np.uint8]
    things: tuple[Thing, ...]
    background_colour: str | None
    size: int


def render_scene(
    rng: np.random.Generator,
    *,
    size: int = 224,
    split: Split = Split.TRAIN,
    styles: tuple[str, ...] = TRAIN_STYLES,
    strength: float = 1.0,
    most: int = MOST,
) -> Scene:
    """Draw a scene of one to five things.

    Args:
        rng: Where chance comes from; ``splits.scene_rng`` gives every scene its own.
        size: Side of the picture in pixels.
        split: Which pairs of concepts may meet.
        styles: Artwork to draw from.
        strength: How much looks vary, above 0; 1.0 is what evaluations draw.
        most: Things at most, 1..5.

    Raises:
        DataError: ``styles`` is empty or unknown.
    """
    concepts = choose_concepts(rng, split, available(styles), most)
    ground, ground_colour = background(rng, size)
    low, high = (math.log(side * size / 224) for side in _SIDES[len(concepts) - 1])
    looks = [
        replace(look, side=math.exp(rng.uniform(low, high)))
        for look in choose_looks(rng, concepts, styles, ground_colour, strength)
    ]
    overlap = 0.4 if rng.random() < _CROWDED else 0.06
    return _paint(rng, ground, ground_colour, arrange(rng, looks, ground, overlap))


def render_single(
    rng: np.random.Generator,
    *,
    size: int = 64,
    styles: tuple[str, ...] = TRAIN_STYLES,
    strength: float = 1.6,
) -> Scene:
    """Draw one thing that fills most of a small picture, for image-text pairs.

    Args:
        rng: Where chance comes from.
        size: Side of the picture in pixels.
        styles: Artwork to draw from.
        strength: How much its look varies: 1.0 as in scenes, above 0.
    """
    pool = available(styles)
    concept = pool[int(rng.integers(len(pool)))]
    ground, ground_colour = background(rng, size)
    (look,) = choose_looks(rng, [concept], styles, ground_colour, strength=strength)
    look = replace(look, side=size * float(rng.uniform(0.6, 1.02)))
    return _paint(rng, ground, ground_colour, arrange(rng, [look], ground, 0.0))


def _paint(
    rng: np.random.Generator,
    ground: Image.Image,
    ground_colour: str | None,
    drawn: list[Drawn],
) -> Scene:
    """Paint placed things on their ground, back to front, and label them."""
    canvas = ground.copy()
    shadow = rng.random() < 0.35
    shift = rng.uniform(-0.06, 0.06), rng.uniform(0.01, 0.08)
    for item in drawn:
        if shadow:
            _cast_shadow(canvas, item, shift)
        canvas.paste(item.rgb, (item.x, item.y), item.alpha)
    return labelled(_develop(rng, canvas), drawn, ground_colour)


def labelled(image: NDArray[np.uint8], drawn: list[Drawn], ground_colour: str | None) -> Scene:
    """A scene with the label of everything in it.

    Args:
        image: uint8 [S S 3].
        drawn: what was placed and painted on it.
        ground_colour: name of the ground's colour where it is plain, otherwise None.
    """
    things = sorted((_thing(item) for item in drawn), key=lambda thing: thing.centre)
    return Scene(
        image=image,
        things=tuple(things),
        background_colour=ground_colour,
        size=image.shape[1],
    )


def _cast_shadow(canvas: Image.Image, item: Drawn, shift: tuple[float, float]) -> None:
    """Darken the ground softly beside a thing; ``shift`` is a share of its size, right and down."""
    width, height = item.alpha.size
    blur = max(1, max(width, height) // 16)
    shape = ImageOps.expand(item.alpha.point(_SHADE), 2 * blur).filter(ImageFilter.BoxBlur(blur))
    place = (
        item.x - 2 * blur + round(shift[0] * width),
        item.y - 2 * blur + round(shift[1] * height),
    )
    canvas.paste((16, 16, 20), (*place, place[0] + shape.width, place[1] + shape.height), shape)


def _thing(item: Drawn) -> Thing:
    """The label of a placed thing."""
    rows = np.flatnonzero(np.count_nonzero(item.mask, axis=1))
    columns = np.flatnonzero(np.count_nonzero(item.mask, axis=0))
    return Thing(
        concept=item.look.concept,
        style=item.look.style,
        box=(float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)),
        mask=item.mask,
        colour=item.look.colour.name if item.look.colour is not None else None,
        visible=item.visible,
    )


def _develop(rng: np.random.Generator, canvas: Image.Image) -> NDArray[np.uint8]:
    """The finished picture: now and then compressed, grainy, soft, or darker: uint8 [H W 3]."""
    chance = rng.random()
    if chance < 0.1:
        buffer = BytesIO()
        canvas.save(buffer, "JPEG", quality=int(rng.integers(25, 85)))
        with Image.open(buffer) as image:
            canvas = image.convert("RGB")
    elif chance < 0.15:
        canvas = canvas.filter(ImageFilter.BoxBlur(float(rng.uniform(0.3, 0.9))))
    elif chance < 0.22:
        gamma = float(np.exp(rng.uniform(-0.3, 0.3)))
        canvas = canvas.point([round(255.0 * (i / 255.0) ** gamma) for i in range(256)] * 3)
    pixels = np.asarray(canvas)
    if 0.22 <= chance < 0.28:
        grain = rng.integers(-12, 13, (canvas.height, canvas.width, 1), np.int16)
        pixels = np.clip(pixels + grain, 0, 255).astype(np.uint8)
    return pixels
