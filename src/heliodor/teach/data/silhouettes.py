"""Masks drawn from a seed: silhouettes of the artwork, plain shapes, and what hides parts of them.

More than half are silhouettes of the training styles at the sizes scenes use; the rest are plain
shapes, so that a codec is not tied to one style. Half of all are cut, by an edge of the picture or
by another thing in front.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from heliodor.see.masks import crop_mask
from heliodor.teach.data.artwork import TRAIN_STYLES, load_style

__all__ = ["MaskSource"]

Mask = NDArray[np.bool_]


@cache
def _silhouettes() -> tuple[tuple[str, NDArray[np.uint8]], ...]:
    """Every sprite of the training styles as (code point, alpha [H W]), in a fixed order."""
    found: list[tuple[str, NDArray[np.uint8]]] = []
    for style in map(load_style, TRAIN_STYLES):
        alpha = np.asarray(style.atlas)[..., 3]
        for name, (x, y, width, height) in sorted(style.index.items()):
            found.append((name, alpha[y : y + height, x : x + width]))
    return tuple(found)


class MaskSource:
    """Masks by number: ``source.mask(7)`` is the same mask on every machine.

    Args:
        seed: another seed, other masks.
        held_out: draw silhouettes of every tenth picture name instead of the other nine tenths.
        sprites: share of silhouettes; the rest are plain shapes.
    """

    def __init__(self, seed: int, *, held_out: bool = False, sprites: float = 0.6) -> None:
        names = sorted({name for name, _ in _silhouettes()})
        apart = set(names[::10])
        self._pictures = [alpha for name, alpha in _silhouettes() if (name in apart) is held_out]
        self._seed = (seed, int(held_out))
        self._sprites = sprites

    def mask(self, index: int) -> NDArray[np.float32]:
        """Return mask number ``index``, cut to its box, float32 [64 64] in 0..1."""
        rng = np.random.default_rng((*self._seed, index))
        while True:
            mask = self._whole(rng)
            area = int(mask.sum())
            if rng.random() < 0.5:
                mask = _hide(rng, mask, self._whole(rng))
            if mask.sum() >= max(12, 0.25 * area):
                return crop_mask(mask, _bounds(mask))

    def batch(self, step: int, size: int) -> Tensor:
        """Masks number ``step * size`` onwards -> float32 [size 1 64 64]."""
        masks = [self.mask(step * size + row) for row in range(size)]
        return torch.as_tensor(np.stack(masks)).unsqueeze(1)

    def _whole(self, rng: Generator) -> Mask:
        if rng.random() < self._sprites:
            return _sprite(rng, self._pictures[rng.integers(len(self._pictures))])
        return _shape(rng)


def _bounds(mask: Mask) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _sprite(rng: Generator, alpha: NDArray[np.uint8]) -> Mask:
    """Scale by a random side of 16..128 pixels, stretch a little, turn, mirror, then threshold."""
    side = math.exp(rng.uniform(math.log(16), math.log(128))) / max(alpha.shape)
    stretch = math.exp(rng.normal(0, 0.1))
    size = [max(4, round(alpha.shape[1] * side * stretch)), max(4, round(alpha.shape[0] * side))]
    picture = Image.fromarray(alpha).resize((size[0], size[1]), Image.Resampling.BILINEAR)
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.4:
        angle = float(rng.uniform(-30, 30))
        picture = picture.rotate(angle, Image.Resampling.BILINEAR, expand=True)
    return np.asarray(picture) > 127


def _shape(rng: Generator) -> Mask:
    """An ellipse, rectangle, polygon, smooth blob or letter on a 128-pixel canvas."""
    canvas = Image.new("1", (128, 128))
    pen = ImageDraw.Draw(canvas)
    width, height = (float(value) for value in rng.uniform(16, 110, 2))
    box = (64 - width / 2, 64 - height / 2, 64 + width / 2, 64 + height / 2)
    kind = rng.integers(5)
    if kind == 0:
        pen.ellipse(box, fill=1)
    elif kind == 1:
        pen.rounded_rectangle(box, float(rng.uniform(0, min(width, height) / 2)), fill=1)
    elif kind == 2:
        letter = chr(int(rng.choice([*range(48, 58), *range(65, 91), *range(97, 123)])))
        font = ImageFont.load_default(float(rng.uniform(60, 130)))
        pen.text((64, 64), letter, fill=1, font=font, anchor="mm")
    else:
        pen.polygon(_outline(rng, smooth=kind == 3), fill=1)
    return np.asarray(canvas.rotate(float(rng.uniform(0, 360)) if rng.random() < 0.5 else 0))


def _outline(rng: Generator, *, smooth: bool) -> list[tuple[float, float]]:
    """Points around the canvas's middle: waves of the angle when smooth, else 3 to 9 corners."""
    count = 48 if smooth else int(rng.integers(3, 10))
    angles = np.arange(count) * 2 * np.pi / count
    if smooth:
        radius = np.ones(count)
        for wave in range(2, 6):
            radius += rng.normal(0, 0.28 / wave) * np.cos(wave * angles + rng.uniform(0, 6.3))
        radius = 45 * np.clip(radius, 0.15, 1.4)
    else:
        radius = rng.uniform(18, 60, count)
    squeeze = rng.uniform(0.4, 1.0)
    x, y = 64 + radius * np.cos(angles), 64 + squeeze * radius * np.sin(angles)
    return list(zip(x.tolist(), y.tolist(), strict=True))


def _hide(rng: Generator, mask: Mask, other: Mask) -> Mask:
    """Cut a mask by an edge of the picture, or by another thing lying over it."""
    rows, columns = (int(side) for side in mask.shape)
    mask = mask.copy()
    if rng.random() < 0.25:
        keep = rng.uniform(0.4, 0.95)
        if rng.random() < 0.5:
            mask[round(rows * keep) :] = False
        else:
            mask[:, : round(columns * (1 - keep))] = False
        return mask
    tall, wide = (int(side) for side in other.shape)
    top = int(rng.integers(-tall // 2, rows))
    left = int(rng.integers(-wide // 2, columns))
    part = other[max(0, -top) :, max(0, -left) :][: rows - max(0, top), : columns - max(0, left)]
    y, x = max(0, top), max(0, left)
    mask[y : y + part.shape[0], x : x + part.shape[1]] &= ~part
    return mask
