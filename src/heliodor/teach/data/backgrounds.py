"""What scenes are painted on: plain named colours, patterns, noise, sky and ground, clutter.

A plain ground is made at once. The others come from a pool that fills on first use: picture i of
the pool at a size is always the same, and a scene takes a cut of it, mirrored and recoloured.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from heliodor.teach.data.palette import COLOURS, colour_named, vary

__all__ = ["POOL", "background"]

POOL = 240
_PLAIN_SHARE = 0.4
_WHITE_SHARE = 0.2  # of the plain grounds: what most clip art stands on

Pixels = NDArray[np.uint8]
Colour = NDArray[np.float32]


def background(rng: np.random.Generator, size: int) -> tuple[Image.Image, str | None]:
    """One ground.

    Args:
        rng: Where chance comes from.
        size: Side in pixels.

    Returns:
        An RGB picture of ``size`` x ``size``, and its colour's name if it is plain.
    """
    if rng.random() < _PLAIN_SHARE:
        white = rng.random() < _WHITE_SHARE
        colour = colour_named("white") if white else COLOURS[int(rng.integers(len(COLOURS)))]
        return Image.new("RGB", (size, size), vary(rng, colour)), colour.name
    image = _pooled(int(rng.integers(POOL)), size)
    left, top = (int(v) for v in rng.integers(0, image.width - size + 1, 2))
    image = image.crop((left, top, left + size, top + size))
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.6:
        image = image.convert("RGB", _shift(rng))
    return image, None


def _shift(rng: np.random.Generator) -> tuple[float, ...]:
    """A 3 x 4 colour matrix near the identity: gain and offset by channel, fade towards grey."""
    fade = rng.uniform(0.0, 0.5)
    rows: list[float] = []
    for channel in range(3):
        gain = rng.uniform(0.75, 1.15)
        weights = [fade / 3.0] * 3
        weights[channel] += 1.0 - fade
        rows += [gain * w for w in weights] + [float(rng.uniform(-20.0, 20.0))]
    return tuple(rows)


@lru_cache(maxsize=2 * POOL)
def _pooled(number: int, size: int) -> Image.Image:
    """Picture ``number`` of the pool: RGB, a quarter wider than ``size``."""
    rng = np.random.default_rng([0xB6, number, size])
    maker = _MAKERS[number % len(_MAKERS)]
    return Image.fromarray(maker(rng, size + size // 4))


def _colour(rng: np.random.Generator) -> Colour:
    """Any colour, pale and greyish ones more often: float32 [3], 0..255."""
    if rng.random() < 0.5:
        base = np.asarray(COLOURS[int(rng.integers(len(COLOURS)))].rgb, np.float32)
        mix = rng.uniform(0.0, 0.7)
        return (base * (1.0 - mix) + rng.uniform(120.0, 255.0) * mix).astype(np.float32)
    return rng.uniform(20.0, 255.0, 3).astype(np.float32)


def _near(rng: np.random.Generator, colour: Colour, spread: float) -> Colour:
    return np.clip(colour + rng.normal(0.0, spread, 3), 0, 255).astype(np.float32)


def _pair(rng: np.random.Generator) -> tuple[Colour, Colour]:
    """Two colours, mostly related, so that patterns do not shout over the things on them."""
    first = _colour(rng)
    second = _near(rng, first, 35.0) if rng.random() < 0.65 else _colour(rng)
    return first, second


def _blend(first: Colour, second: Colour, share: NDArray[np.float32]) -> Pixels:
    """``first`` where share is 0, ``second`` where it is 1: [H W] -> uint8 [H W 3]."""
    mixed = first + (second - first) * share[..., None]
    return np.clip(mixed, 0, 255).astype(np.uint8)


def _plane(size: int, angle: float) -> NDArray[np.float32]:
    """Distance along a direction in pixels: float32 [size size]."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    return (x * np.cos(angle) + y * np.sin(angle)).astype(np.float32)


def _gradient(rng: np.random.Generator, size: int) -> Pixels:
    first, second = _colour(rng), _colour(rng)
    if rng.random() < 0.3:
        y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
        cx, cy = rng.uniform(0.2, 0.8, 2)
        share = np.hypot(x - cx, y - cy)
    else:
        share = _plane(size, rng.uniform(0, 2 * np.pi))
        share = (share - share.min()) / max(float(np.ptp(share)), 1.0)
    return _blend(first, second, np.clip(share, 0, 1).astype(np.float32))


def _stripes(rng: np.random.Generator, size: int) -> Pixels:
    period = rng.uniform(0.04, 0.25) * size
    angle = rng.choice([0.0, np.pi / 2, rng.uniform(0, np.pi)])
    wave = _plane(size, float(angle)) / period % 1.0
    return _blend(*_pair(rng), (wave < rng.uniform(0.3, 0.7)).astype(np.float32))


def _checker(rng: np.random.Generator, size: int) -> Pixels:
    cell = rng.uniform(0.04, 0.2) * size
    angle = 0.0 if rng.random() < 0.6 else rng.uniform(0, np.pi / 2)
    across, down = _plane(size, angle) // cell, _plane(size, angle + np.pi / 2) // cell
    return _blend(*_pair(rng), ((across + down) % 2).astype(np.float32))


def _dots(rng: np.random.Generator, size: int) -> Pixels:
    cell = rng.uniform(0.06, 0.2) * size
    radius = rng.uniform(0.15, 0.4)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / np.float32(cell)
    x = x + 0.5 * (np.floor(y) % 2) * (rng.random() < 0.5)
    distance = np.hypot(x % 1.0 - 0.5, y % 1.0 - 0.5)
    return _blend(*_pair(rng), np.clip((radius - distance) * cell + 0.5, 0, 1).astype(np.float32))


def _cloudy(rng: np.random.Generator, size: int, octaves: int = 5) -> NDArray[np.float32]:
    """Fractal noise, 0..1: float32 [size size]."""
    total = np.zeros((size, size), np.float32)
    first = int(rng.integers(1, 4))
    for octave in range(first, first + octaves):
        cells = min(2**octave, size)
        grid = Image.fromarray(rng.random((cells + 1, cells + 1), np.float32))
        total += np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC)) * 0.6**octave
    low, high = float(total.min()), float(total.max())
    return (total - low) / max(high - low, 1e-6)


def _noise(rng: np.random.Generator, size: int) -> Pixels:
    first, second = _pair(rng)
    pixels = _blend(first, second, _cloudy(rng, size))
    if rng.random() < 0.5:
        grain = rng.normal(0.0, rng.uniform(3.0, 18.0), (size, size, 1))
        pixels = np.clip(pixels + grain, 0, 255).astype(np.uint8)
    return pixels


def _grey_texture(rng: np.random.Generator, size: int) -> Pixels:
    """Plaster, gravel, brushed metal: grey noise lit from one side."""
    height = _cloudy(rng, size, octaves=7)
    slope = np.gradient(height, axis=int(rng.integers(2))) * rng.uniform(2.0, 14.0)
    light = np.clip(rng.uniform(0.35, 0.75) + slope + 0.2 * (height - 0.5), 0, 1)
    grey = np.full(3, 255.0, np.float32) + rng.normal(0.0, 6.0, 3).astype(np.float32)
    return _blend(np.zeros(3, np.float32), grey, light.astype(np.float32))


def _bricks(rng: np.random.Generator, size: int) -> Pixels:
    height = rng.uniform(0.05, 0.14) * size
    width, joint = height * rng.uniform(1.5, 3.0), rng.uniform(0.05, 0.14)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    row = np.floor(y / height)
    x = x / width + 0.5 * (row % 2)
    wall = ((x % 1.0) > joint * height / width) & ((y / height) % 1.0 > joint)
    tone = rng.random((64, 64), np.float32)[row.astype(int) % 64, np.floor(x).astype(int) % 64]
    mortar, brick = _pair(rng)
    share = wall.astype(np.float32) * (np.float32(0.7) + np.float32(0.3) * tone)
    return _blend(mortar, brick, share.astype(np.float32))


def _sky_and_ground(rng: np.random.Generator, size: int) -> Pixels:
    horizon = int(rng.uniform(0.35, 0.8) * size)
    sky = np.array([rng.uniform(90, 200), rng.uniform(150, 225), 250.0], np.float32)
    if rng.random() < 0.25:  # dusk or night
        sky = _colour(rng) * np.float32(rng.uniform(0.2, 0.9))
    grounds = ([90, 160, 70], [200, 180, 130], [120, 100, 80], [235, 240, 245], [120, 122, 125])
    ground = _near(rng, np.array(grounds[int(rng.integers(5))], np.float32), 15.0)
    fade = np.linspace(0.0, 0.6, size, dtype=np.float32)[:, None] * np.ones(size, np.float32)
    pixels = _blend(sky, np.full(3, 255.0, np.float32), fade)
    shade = 0.35 * _cloudy(rng, size) + 0.3 * fade
    hills = horizon + (_cloudy(rng, size, 2)[0] - 0.5) * rng.uniform(0, 0.15) * size
    below = np.arange(size, dtype=np.float32)[:, None] > hills
    soil = _blend(ground, ground * np.float32(0.5), shade.astype(np.float32))
    return np.where(below[..., None], soil, pixels)


def _clutter(rng: np.random.Generator, size: int) -> Pixels:
    """Scattered flat shapes that are no concept: what must not be taken for a thing."""
    base = _colour(rng)
    image = Image.new("RGB", (size, size), tuple(int(v) for v in base))
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(6, 40))):
        x, y = (int(v) for v in rng.integers(0, size, 2))
        w, h = (int(v) for v in rng.integers(3, max(4, size // 5), 2))
        fill = tuple(int(v) for v in _near(rng, base, 45.0))
        kind = int(rng.integers(4))
        if kind == 0:
            draw.rectangle((x, y, x + w, y + h), fill=fill)
        elif kind == 1:
            draw.ellipse((x, y, x + w, y + h), fill=fill)
        elif kind == 2:
            draw.line((x, y, x + 2 * w - h, y + 2 * h - w), fill=fill, width=1 + w // 12)
        else:
            draw.polygon((x, y, x + w, y + h // 2, x + w // 3, y + h), fill=fill)
    return np.asarray(image)


_MAKERS: tuple[Callable[[np.random.Generator, int], Pixels], ...] = (
    _gradient,
    _stripes,
    _checker,
    _dots,
    _noise,
    _grey_texture,
    _bricks,
    _sky_and_ground,
    _clutter,
    _sky_and_ground,
    _gradient,
    _noise,
)
