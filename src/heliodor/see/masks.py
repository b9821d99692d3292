"""Masks and their sixteen codes: the pixels around the codec.

Towards codes (what training data needs): cut the mask to its box, resize to 64x64, encode.
Back (what an answer needs): decode to 64x64, then paste into a picture-sized mask. The two
references paste differently, so both ways are here, by name: see ``PasteRule``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from enum import Enum

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from heliodor.errors import InputError
from heliodor.models.maskcodec import MASK_SIDE, MaskCodec
from heliodor.see.answers import Segment, Segments
from heliodor.see.boxes import LocScale, ParsedBox, ScoredBox, to_pixels

__all__ = [
    "PasteRule",
    "crop_mask",
    "decode_masks",
    "encode_masks",
    "paste_mask",
    "to_segments",
]

Floats = NDArray[np.float32]


class PasteRule(Enum):
    """How 64x64 values become a mask of the whole picture.

    ``DEMO`` is the published demo's: box round(bin / 1024 * side), values 0.5 x + 0.5 cut to 0..1
    and to bytes, bicubic, so edges are soft. It is the default, because masks were cut by rounding
    too: at 224 pixels a mask that goes through its codes and back keeps 0.92 of itself (IoU of the
    shipped codec on scenes), and 0.89 by the other rule; at 896 both keep 0.92.

    ``EVALUATION`` is what the published IoU figures were measured with: box
    int(bin / 1023 * side), which loses a pixel as often as not, bilinear, then above 0: each pixel
    is 0 or 1.
    """

    EVALUATION = "evaluation"
    DEMO = "demo"


def crop_mask(mask: NDArray[np.generic], xyxy: Sequence[float]) -> Floats:
    """Mask [H W] (bool, or numbers in 0..1) cut to its box -> float32 [64 64] in 0..1.

    The box is rounded to whole pixels, as big_vision's ``segmentation.py`` does, kept inside the
    picture, and widened to one pixel where rounding left none; the crop is resized bilinearly with
    antialiasing.

    Raises:
        InputError: a mask that is not two-dimensional, or a box that is not four finite numbers in
            order.
    """
    if mask.ndim != 2 or 0 in mask.shape:
        raise InputError(f"a mask must be [H W] with pixels in it, not {list(mask.shape)}")
    if len(xyxy) != 4 or not all(math.isfinite(value) for value in xyxy):
        raise InputError(f"a box must be four finite numbers x0, y0, x1, y1, not {list(xyxy)}")
    x0, y0, x1, y1 = xyxy
    if x1 < x0 or y1 < y0:
        raise InputError(f"a box must run from its least to its greatest corner, not {list(xyxy)}")
    left, right = _whole_pixels(x0, x1, mask.shape[1])
    top, bottom = _whole_pixels(y0, y1, mask.shape[0])
    crop = Image.fromarray(np.ascontiguousarray(mask[top:bottom, left:right], dtype=np.float32))
    small = crop.resize((MASK_SIDE, MASK_SIDE), Image.Resampling.BILINEAR)
    return np.asarray(small, dtype=np.float32)


def _whole_pixels(start: float, stop: float, size: int) -> tuple[int, int]:
    first = min(max(round(start), 0), size - 1)
    return first, min(max(round(stop), first + 1), size)


@torch.inference_mode()
def encode_masks(
    codec: MaskCodec,
    masks: Sequence[NDArray[np.generic]],
    boxes: Sequence[Sequence[float]],
    batch: int = 256,
) -> NDArray[np.int64]:
    """Masks of whole pictures and their boxes -> codes int64 [N 16].

    Args:
        codec: the mask codec.
        masks: N arrays [H W], bool or 0..1, of any sizes.
        boxes: N times x0, y0, x1, y1 in pixels.
        batch: how many go through the codec at once.

    Raises:
        InputError: more masks than boxes or the reverse, or one that ``crop_mask`` refuses.
    """
    if len(masks) != len(boxes):
        raise InputError(f"each mask needs a box: {len(masks)} masks came with {len(boxes)} boxes")
    codes = np.zeros((len(masks), 16), dtype=np.int64)
    for start in range(0, len(masks), batch):
        pairs = zip(masks[start : start + batch], boxes[start : start + batch], strict=True)
        crops = np.stack([crop_mask(mask, xyxy) for mask, xyxy in pairs])
        found = codec.encode(torch.as_tensor(crops).unsqueeze(1).to(codec.codebook.device))
        codes[start : start + len(crops)] = found.cpu().numpy()
    return codes


@torch.inference_mode()
def decode_masks(
    codec: MaskCodec, codes: Sequence[Sequence[int]], batch: int = 256
) -> list[Floats]:
    """Codes, N times sixteen of 0..127 -> N float32 arrays [64 64], roughly -1..1, above 0 inside.

    Raises:
        InputError: not sixteen each, or a code that the codec has not.
    """
    wrong = [len(row) for row in codes if len(row) != 16]
    if wrong:
        raise InputError(f"a mask is sixteen codes, not {wrong[0]}")
    found: list[Floats] = []
    for start in range(0, len(codes), batch):
        rows = [list(row) for row in codes[start : start + batch]]
        values = codec.decode(torch.tensor(rows, device=codec.codebook.device))
        found += list(values.float().cpu().numpy())
    return found


def paste_mask(
    values: Floats,
    loc: Sequence[int],
    size: tuple[int, int],
    rule: PasteRule = PasteRule.DEMO,
) -> Floats:
    """Values [64 64] (roughly -1..1) into a mask of the picture, float32 [H W] in 0..1.

    Args:
        values: what the codec decoded.
        loc: top, left, bottom, right, 0..1023.
        size: width and height of the picture.
        rule: which reference's way.

    Returns:
        Zero outside the box; all zero where the box holds no pixel.
    """
    width, height = size
    mask = np.zeros((height, width), dtype=np.float32)
    if rule is PasteRule.EVALUATION:
        top, left, bottom, right = (
            int(number / LocScale.BIG_VISION.value * side)
            for number, side in zip(loc, (height, width) * 2, strict=True)
        )
        picture, filtering = Image.fromarray(values), Image.Resampling.BILINEAR
    else:
        top, left, bottom, right = (
            round(number / LocScale.HUGGING_FACE.value * side)
            for number, side in zip(loc, (height, width) * 2, strict=True)
        )
        grey = ((values * 0.5 + 0.5).clip(0, 1) * 255).astype(np.uint8)
        picture, filtering = Image.fromarray(grey), Image.Resampling.BICUBIC
    if bottom > top and right > left:
        part = np.asarray(picture.resize((right - left, bottom - top), filtering))
        inside = part > 0 if rule is PasteRule.EVALUATION else part / 255
        mask[top:bottom, left:right] = inside
    return mask


def to_segments(
    codec: MaskCodec,
    objects: Iterable[ParsedBox | ScoredBox],
    size: tuple[int, int],
    rule: PasteRule = PasteRule.DEMO,
    scale: LocScale = LocScale.BIG_VISION,
) -> Segments:
    """Objects -> boxes with masks, in the pixels of a picture of ``size`` (width, height).

    ``scale`` is for the boxes, which are those of ``to_detections``; a paste rule brings its own.
    Objects without sixteen codes, and boxes whose corners coincide or are swapped, are dropped:
    big_vision's evaluator counts both invalid. Objects without probabilities have score 1.
    """
    scored = [
        (item, 1.0) if isinstance(item, ParsedBox) else (item.parsed, item.score)
        for item in objects
    ]
    whole = [(item, item.codes, score) for item, score in scored if item.codes and item.proper]
    drawn = decode_masks(codec, [codes for _, codes, _ in whole])
    segments = [
        Segment(
            label=item.label,
            xyxy=to_pixels(item.loc, size, scale),
            score=score,
            mask=paste_mask(values, item.loc, size, rule),
        )
        for (item, _, score), values in zip(whole, drawn, strict=True)
    ]
    return Segments(segments, size)
