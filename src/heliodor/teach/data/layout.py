"""Where the things of a scene stand: drawn, placed with little overlap, measured."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from heliodor.teach.data.looks import Look, draw_look, outlined

__all__ = ["Drawn", "arrange", "draw", "measure"]

_LEAST_VISIBLE = 0.35
_LEAST_PIXELS = 12
_LEAST_SIDE = 12.0  # pixels
_OUTLINED = 0.12

Mask = NDArray[np.bool_]


@dataclass(kw_only=True, slots=True)
class Drawn:
    """A drawn thing and, once placed, where it stands and what is seen of it.

    Attributes:
        look: What it was drawn from.
        rgb: Its colours.
        alpha: Its coverage, mode "L", same size.
        x: Left edge of the drawing in the scene, pixels; may be negative.
        y: Top edge.
        mask: bool [H W] of the scene: where it is seen.
        visible: Share of its pixels in ``mask``, 0..1.
    """

    look: Look
    rgb: Image.Image
    alpha: Image.Image
    x: int = 0
    y: int = 0
    mask: Mask = field(default_factory=lambda: np.zeros((0, 0), np.bool_))
    visible: float = 0.0


def draw(rng: np.random.Generator, look: Look, ground: Image.Image) -> Drawn:
    """Draw a thing, with a line around it where the ground would swallow it, and now and then."""
    rgb, alpha = draw_look(rng, look)
    pixel = ground.resize((1, 1), Image.Resampling.BOX)
    mean = np.asarray(pixel, np.float32)[0, 0]
    small = np.asarray(rgb.resize((16, 16), Image.Resampling.NEAREST), np.float32)
    inside = np.asarray(alpha.resize((16, 16), Image.Resampling.NEAREST)) > 128
    distance = np.abs(small - mean).max(axis=-1)[inside]
    drowns = distance.size == 0 or float((distance > 40.0).mean()) < 0.35
    if drowns:
        rgb, alpha = outlined(rng, rgb, alpha, "#202020" if mean.mean() > 110 else "#f4f4f4")
    elif rng.random() < _OUTLINED * look.strength:
        rgb, alpha = outlined(rng, rgb, alpha, "#101010" if rng.random() < 0.5 else "#ffffff")
    return Drawn(look=look, rgb=rgb, alpha=alpha)


def arrange(
    rng: np.random.Generator, looks: list[Look], ground: Image.Image, overlap: float
) -> list[Drawn]:
    """Draw and place things so that enough of each is seen, back to front.

    A layout that hides too much of something is thrown away; the next one allows half the overlap
    and draws things a little smaller, those too slight to be seen larger.

    Args:
        rng: Where chance comes from.
        looks: What to draw; sides are wishes.
        ground: What they stand on; its side is the scene's.
        overlap: Largest share of the smaller of two boxes that both may cover, 0..1.
    """
    while True:
        things: list[Drawn] = []
        for look in looks:
            things.append(_placed(rng, look, ground, things, overlap))
        if measure(things, ground.width, _LEAST_VISIBLE):
            return things
        overlap *= 0.5
        looks = [
            replace(look, side=_next_side(look, thing))
            for look, thing in zip(looks, things, strict=True)
        ]


def _next_side(look: Look, thing: Drawn) -> float:
    """The side to wish for after a failed layout: thin drawings vanish when they are small."""
    solid = np.count_nonzero(np.asarray(thing.alpha) >= 128)
    if solid < 4 * _LEAST_PIXELS:
        return look.side * 1.3
    return max(_LEAST_SIDE, look.side * 0.93)


def _placed(
    rng: np.random.Generator, look: Look, ground: Image.Image, things: list[Drawn], overlap: float
) -> Drawn:
    """One thing where it overlaps those before it least; smaller when there is no room."""
    size = ground.width
    thing = draw(rng, look, ground)
    best, wish = 9.0, look.side
    for attempt in range(60):
        if attempt % 12 == 11:
            side = max(0.5 * wish, look.side * 0.84)
            look = replace(look, side=side)
            thing, best = draw(rng, look, ground), 9.0
        x, y = _spot(rng, thing.rgb.width, size), _spot(rng, thing.rgb.height, size)
        shared = max((_shared(thing, x, y, other) for other in things), default=0.0)
        if shared < best:
            best, thing.x, thing.y = shared, x, y
        if best <= overlap:
            break
    return thing


def _spot(rng: np.random.Generator, length: int, size: int) -> int:
    """Where a drawing starts along one axis: inside, now and then a fifth beyond the border."""
    beyond = int(0.2 * length) if rng.random() < 0.08 else 0
    room = size - length
    return int(rng.integers(min(0, room) - beyond, max(0, room) + beyond + 1))


def _shared(thing: Drawn, x: int, y: int, other: Drawn) -> float:
    """Area that two drawings' boxes share, of the smaller box."""
    width, height = thing.rgb.size
    other_width, other_height = other.rgb.size
    across = min(x + width, other.x + other_width) - max(x, other.x)
    down = min(y + height, other.y + other_height) - max(y, other.y)
    if across <= 0 or down <= 0:
        return 0.0
    return across * down / min(width * height, other_width * other_height)


def measure(things: list[Drawn], size: int, least: float) -> bool:
    """Fill in ``mask`` and ``visible``, painter's order.

    Args:
        things: Placed things, back to front.
        size: Side of the scene in pixels.
        least: Share of a thing's pixels that must be seen.

    Returns:
        Whether enough of every thing is seen.
    """
    covered = np.zeros((size, size), np.bool_)
    for thing in reversed(things):
        solid = np.asarray(thing.alpha) >= 128
        x0, y0 = max(0, thing.x), max(0, thing.y)
        x1, y1 = min(size, thing.x + solid.shape[1]), min(size, thing.y + solid.shape[0])
        seen = solid[y0 - thing.y : y1 - thing.y, x0 - thing.x : x1 - thing.x]
        taken = covered[y0:y1, x0:x1]
        thing.mask = np.zeros((size, size), np.bool_)
        thing.mask[y0:y1, x0:x1] = seen & ~taken
        taken |= seen
        pixels = int(np.count_nonzero(thing.mask))
        thing.visible = pixels / max(1, int(np.count_nonzero(solid)))
        if thing.visible < least or pixels < _LEAST_PIXELS:
            return False
    return True
