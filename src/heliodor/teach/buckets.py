"""Aspect buckets: sizes of about one area, and each picture cut to one that is nearly its shape.

A painter learns pictures of all shapes when each is scaled and cut to the bucket whose shape is
nearest; a batch is of one bucket. Source: arXiv 2406.18583; Lumina-T2X
``lumina_next_t2i/train.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from heliodor.errors import TrainingError

__all__ = ["bucket_sizes", "cut_to_bucket", "nearest_buckets"]

Size = tuple[int, int]


def bucket_sizes(side: int, *, multiple: int = 16, longest: float = 4.0) -> list[Size]:
    """Widths and heights in pixels that hold about as many pixels as a square of ``side``.

    In units of ``multiple``, with N = (side / multiple)^2 of them: all (w, h) on the staircase
    below w h = N, floor(N / (w + 1)) <= h <= floor(N / w), whose longer side is at most
    ``longest`` times the shorter. The widest comes first.

    Args:
        side: of the square, in pixels.
        multiple: what sides are multiples of.
        longest: the largest ratio of sides, 1 or more.

    Raises:
        TrainingError: a ratio below 1, or a side shorter than ``multiple``.
    """
    most = round((side / multiple) ** 2)
    if longest < 1.0 or side < multiple:
        raise TrainingError(
            f"buckets of side {side} in multiples of {multiple}, sides up to {longest} to 1: a "
            "side of at least one multiple and a ratio of at least 1 are wanted"
        )
    found: list[Size] = []
    for width in range(most, 0, -1):
        for height in range(max(1, most // (width + 1)), most // width + 1):
            if max(width, height) <= longest * min(width, height):
                found.append((width * multiple, height * multiple))  # noqa: PERF401 - two loops read better
    return found


def nearest_buckets(size: Size, buckets: Sequence[Size], most: int = 4) -> list[Size]:
    """The buckets that keep most of a picture, best first.

    A bucket's score is the smaller of the two factors by which sides would be scaled over the
    larger: 1 where the shapes are equal. Of equal scores the wider bucket comes first.

    Args:
        size: width and height of the picture.
        buckets: to choose from.
        most: how many to return.
    """

    def score(bucket: Size) -> tuple[float, Size]:
        factors = bucket[0] / size[0], bucket[1] / size[1]
        return min(factors) / max(factors), bucket

    return sorted(buckets, key=score, reverse=True)[:most]


def cut_to_bucket(rng: np.random.Generator, picture: Image.Image, bucket: Size) -> Image.Image:
    """Scale a picture until it just covers a bucket, and cut anywhere.

    While it is twice as large or larger it is halved by averaging first, which keeps fine lines
    from flickering.

    Args:
        rng: where the cut lies.
        picture: any size.
        bucket: width and height in pixels.
    """
    width, height = bucket
    while picture.width >= 2 * width and picture.height >= 2 * height:
        halved = (picture.width // 2, picture.height // 2)
        picture = picture.resize(halved, Image.Resampling.BOX)
    scale = max(width / picture.width, height / picture.height)
    covered = (
        max(width, round(picture.width * scale)),
        max(height, round(picture.height * scale)),
    )
    picture = picture.resize(covered, Image.Resampling.BICUBIC)
    left = int(rng.integers(0, picture.width - width + 1))
    top = int(rng.integers(0, picture.height - height + 1))
    return picture.crop((left, top, left + width, top + height))
