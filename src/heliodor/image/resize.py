"""Squeezing a picture into a square, the ways the reference implementations do it.

All ignore the aspect ratio, and all end in uint8. They differ by a few grey levels, which costs
little accuracy but makes scores incomparable, so a checkpoint keeps the way it was trained with.

- transformers: Pillow's bicubic filter on uint8, rounded.
- big_vision: ``tf.image.resize`` bilinear in float32, truncated (not rounded) to uint8; without
  antialiasing (four pixels are read for each output pixel, however large the picture is) or with
  it (a triangle filter as wide as the shrink factor).

H, W: height and width of the input. S: side of the output.
"""

from __future__ import annotations

from enum import Enum

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["Resize", "resize_square"]


class Resize(Enum):
    """A reference way of resizing; the value is its name in configuration files."""

    TRANSFORMERS = "transformers"
    BIG_VISION = "big_vision"
    BIG_VISION_ANTIALIAS = "big_vision_antialias"


def resize_square(image: Image.Image, size: int, resize: Resize) -> NDArray[np.uint8]:
    """Resize an RGB picture to size x size.

    Args:
        image: mode RGB.
        size: S, in pixels.
        resize: the reference to follow.

    Returns:
        uint8 [S S 3]. Within one grey level of the reference.
    """
    if resize is Resize.TRANSFORMERS:
        return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))
    pixels = np.asarray(image)
    if pixels.shape[:2] == (size, size):  # TensorFlow returns such a picture as it is
        return pixels
    if resize is Resize.BIG_VISION:
        return _bilinear(pixels, size).astype(np.uint8)
    return _antialiased(pixels, size).astype(np.uint8)


def _bilinear(pixels: NDArray[np.uint8], size: int) -> NDArray[np.float32]:
    """[H W 3] -> [S S 3]: two interpolations across, one down, pixel centres at half integers."""
    y_low, y_high, y_part = _neighbours(pixels.shape[0], size)
    x_low, x_high, x_part = _neighbours(pixels.shape[1], size)

    def between(
        low: NDArray[np.float32], high: NDArray[np.float32], part: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        return np.add(low, np.multiply(np.subtract(high, low), part), dtype=np.float32)

    def across(rows: NDArray[np.intp]) -> NDArray[np.float32]:
        left = pixels[rows[:, None], x_low].astype(np.float32)  # [S S 3]
        right = pixels[rows[:, None], x_high].astype(np.float32)
        return between(left, right, x_part[:, None])

    return between(across(y_low), across(y_high), y_part[:, None, None])


def _neighbours(
    length: int, size: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """For each output position: the two input positions around it and the share of the second."""
    scale = np.float32(length) / np.float32(size)
    place = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    floor = np.floor(place)
    low = np.maximum(floor, 0).astype(np.intp)
    high = np.minimum(np.ceil(place), length - 1).astype(np.intp)
    return low, high, place - floor


def _antialiased(pixels: NDArray[np.uint8], size: int) -> NDArray[np.float32]:
    """[H W 3] -> [S S 3], rows first: the sums run in the order in which TensorFlow's do.

    A long low strip goes columns first, since its rows would fill memory when stretched.
    """
    if pixels.shape[0] < size and pixels.shape[1] > 16 * size:
        return _shrink_rows(_shrink_rows(pixels.transpose(1, 0, 2), size).transpose(1, 0, 2), size)
    return _shrink_rows(_shrink_rows(pixels, size).transpose(1, 0, 2), size).transpose(1, 0, 2)


def _shrink_rows(pixels: NDArray[np.uint8] | NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """[H W 3] -> [S W 3]."""
    first, weights = _triangle(pixels.shape[0], size)
    total = np.zeros((size, *pixels.shape[1:]), dtype=np.float32)
    for offset in range(weights.shape[1]):
        taken = np.minimum(first + offset, len(pixels) - 1)  # beyond the span the weight is 0
        total += pixels[taken].astype(np.float32) * weights[:, offset, None, None]
    return total


def _triangle(length: int, size: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """The triangle filter: for each output position its first input position and K weights.

    The filter reaches one output pixel to either side (at least one input pixel); weights are
    normalised over the part of it that lies inside the picture.
    """
    inverse = np.float32(1) / (np.float32(size) / np.float32(length))
    reach = max(inverse, np.float32(1))
    centre = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * inverse
    half = np.float32(0.5)
    first = np.clip(np.ceil(centre - reach - half), 0, length - 1).astype(np.intp)
    last = np.clip(np.floor(centre + reach - half), 0, length - 1).astype(np.intp)
    place = first[:, None] + np.arange(int((last - first).max()) + 1)  # [S K]
    distance = np.abs(place.astype(np.float32) + half - centre[:, None]) * (np.float32(1) / reach)
    weights = np.maximum(np.float32(1) - distance, np.float32(0))
    weights[place > last[:, None]] = 0
    total = np.zeros(size, dtype=np.float32)
    for offset in range(weights.shape[1]):
        total += weights[:, offset]
    return first, weights * (np.float32(1) / total)[:, None]
