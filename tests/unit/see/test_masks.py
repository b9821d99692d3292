"""Masks to codes and back: the crop, the two paste rules, and the shipped codec's round trip."""

from __future__ import annotations

import math
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from heliodor.checkpoints.maskcodec import read_mask_codec
from heliodor.errors import InputError
from heliodor.models.maskcodec import MaskCodec, MaskCodecConfig
from heliodor.see.boxes import encode_box, format_object, parse, parse_tokens, to_detections
from heliodor.see.masks import (
    PasteRule,
    crop_mask,
    decode_masks,
    encode_masks,
    paste_mask,
    to_segments,
)

SMALL = MaskCodecConfig(widths=(2, 3, 4, 5), code_width=6, num_codes=128, num_blocks=1)
SHIPPED = Path(str(resources.files("heliodor") / "zoo" / "tiny" / "maskcodec.npz"))


def triangle_resize(values: np.ndarray, out: int) -> np.ndarray:
    """Values [N M] -> [out M] by a triangle as wide as the step, as antialiased bilinear does."""
    scale = len(values) / out
    reach = max(scale, 1.0)
    rows = np.arange(len(values)) + 0.5
    weights = np.maximum(0, 1 - np.abs((np.arange(out)[:, None] + 0.5) * scale - rows) / reach)
    return (weights / weights.sum(1, keepdims=True)) @ values


@pytest.mark.parametrize("box", [(10, 20, 138, 200), (3, 4, 30, 20), (0, 0, 300, 240)])
def test_the_crop_is_resized_bilinearly_with_antialiasing(box):
    rng = np.random.default_rng(0)
    mask = rng.random((240, 300)) > 0.4
    x0, y0, x1, y1 = box
    tall = triangle_resize(mask[y0:y1, x0:x1].astype(np.float64), 64)
    expected = triangle_resize(tall.T, 64).T
    np.testing.assert_allclose(crop_mask(mask, box), expected, atol=1e-5)


@pytest.mark.parametrize("box", [(10, 20, 138, 200), (3, 4, 30, 20)])
def test_the_crop_is_what_tensorflow_gives(box):
    tf = pytest.importorskip("tensorflow")
    mask = np.random.default_rng(0).random((240, 300)) > 0.4
    x0, y0, x1, y1 = box
    crop = mask[y0:y1, x0:x1, None].astype(np.float32)
    expected = tf.image.resize(crop, (64, 64), method="bilinear", antialias=True)[..., 0].numpy()
    np.testing.assert_allclose(crop_mask(mask, box), expected, atol=1e-5)


def test_the_crop_rounds_its_box():
    mask = np.zeros((50, 50))
    mask[10:20, 30:40] = 1
    assert crop_mask(mask, (29.6, 9.5, 40.4, 20.4)).min() == 1.0  # 9.5 rounds to even, 10
    assert crop_mask(mask, (29.4, 10, 40, 20)).min() == 0.0


def test_a_box_under_a_pixel_takes_the_pixel_it_lies_in():
    mask = np.zeros((50, 50), bool)
    mask[10, 30] = True
    assert crop_mask(mask, (30.1, 10.1, 30.3, 10.3)).min() == 1.0
    mask[49, 49] = True
    assert crop_mask(mask, (49.9, 49.9, 50.0, 50.0)).min() == 1.0


@pytest.mark.parametrize(
    "xyxy", [(5, 5, 4, 9), (math.nan, 0, 5, 5), (0, 0, math.inf, 5), (0, 0, 5)]
)
def test_a_box_that_cannot_be_is_refused(xyxy):
    with pytest.raises(InputError, match="a box must"):
        crop_mask(np.zeros((9, 9), bool), xyxy)


@pytest.mark.parametrize("shape", [(9,), (9, 9, 1), (0, 9)])
def test_a_mask_that_is_no_picture_is_refused(shape):
    with pytest.raises(InputError, match="a mask must be"):
        crop_mask(np.zeros(shape, bool), (0, 0, 5, 5))


def test_batches_give_what_single_masks_give():
    codec = MaskCodec(SMALL).eval()
    masks = [np.random.default_rng(n).random((40 + n, 50)) > 0.5 for n in range(5)]
    boxes = [(n, n, 30 + n, 40) for n in range(5)]
    codes = encode_masks(codec, masks, boxes, batch=2)
    assert (codes.shape, codes.dtype) == ((5, 16), np.int64)
    drawn = decode_masks(codec, codes.tolist(), batch=2)
    for row in range(5):
        assert np.array_equal(codes[row], encode_masks(codec, [masks[row]], [boxes[row]])[0])
        np.testing.assert_allclose(
            drawn[row], decode_masks(codec, [codes[row].tolist()])[0], atol=1e-6
        )


def test_none_in_none_out():
    codec = MaskCodec(SMALL)
    assert encode_masks(codec, [], []).shape == (0, 16)
    assert decode_masks(codec, []) == []


def test_a_mask_without_a_box_is_refused():
    with pytest.raises(InputError, match="1 masks came with 0 boxes"):
        encode_masks(MaskCodec(SMALL), [np.ones((3, 3), bool)], [])


def test_fifteen_codes_are_refused():
    with pytest.raises(InputError, match="sixteen codes, not 15"):
        decode_masks(MaskCodec(SMALL), [[0] * 15])


VALUES = np.random.default_rng(3).normal(size=(64, 64)).astype(np.float32)


def test_the_evaluation_rule_cuts_down_to_pixels_and_thresholds_after_resizing():
    mask = paste_mask(VALUES, (100, 201, 700, 1023), (333, 257), PasteRule.EVALUATION)
    y1, x1 = int(100 / 1023 * 257), int(201 / 1023 * 333)
    y2, x2 = int(700 / 1023 * 257), int(1023 / 1023 * 333)
    small = Image.fromarray(VALUES).resize((x2 - x1, y2 - y1), Image.Resampling.BILINEAR)
    expected = np.zeros((257, 333))
    expected[y1:y2, x1:x2] = np.array(small) > 0.0
    assert mask.dtype == np.float32
    assert np.array_equal(mask, expected)


def test_the_demo_rule_rounds_to_pixels_and_keeps_soft_edges():
    mask = paste_mask(VALUES, (100, 201, 700, 1023), (333, 257), PasteRule.DEMO)
    y1, x1 = round(100 / 1024 * 257), round(201 / 1024 * 333)
    y2, x2 = round(700 / 1024 * 257), round(1023 / 1024 * 333)
    grey = Image.fromarray((np.clip(VALUES * 0.5 + 0.5, 0, 1) * 255).astype("uint8"))
    expected = np.zeros((257, 333))
    expected[y1:y2, x1:x2] = np.array(grey.resize((x2 - x1, y2 - y1))) / 255.0
    np.testing.assert_allclose(mask, expected, atol=1e-6)
    assert 0 < mask[mask > 0].min() < 0.5
    assert np.array_equal(mask, paste_mask(VALUES, (100, 201, 700, 1023), (333, 257)))


@pytest.mark.parametrize("rule", list(PasteRule))
@pytest.mark.parametrize(
    "loc", [(5, 5, 5, 9), (9, 5, 5, 9), (0, 0, 1, 1), (1023, 1023, 1023, 1023)]
)
def test_a_box_without_pixels_is_an_empty_mask(rule, loc):
    assert paste_mask(VALUES, loc, (100, 100), rule).max() == 0


def test_segments_are_objects_with_codes_and_their_scores():
    codec = MaskCodec(SMALL).eval()
    where = encode_box((10, 20, 60, 70), (100, 80))
    text = format_object(where, "bee", range(16)) + " ; " + format_object(where, "no codes")
    (segment,) = to_segments(codec, parse(text), (100, 80))
    assert (segment.label, segment.score, segment.mask.shape) == ("bee", 1.0, (80, 100))
    (values,) = decode_masks(codec, [list(range(16))])
    loc = parse(text)[0].loc
    assert np.array_equal(segment.mask, paste_mask(values, loc, (100, 80)))
    assert segment.xyxy == to_detections(parse(text), (100, 80))[0].xyxy
    (scored,) = to_segments(codec, parse_tokens([(text, math.log(0.5))]), (100, 80))
    assert scored.score == pytest.approx(0.25)  # one token wrote everything: place and label


def shapes() -> list[tuple[np.ndarray, tuple[int, int, int, int]]]:
    """Discs, rectangles, rings and smooth blobs with their boxes."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[:224, :224]
    found = []
    for number in range(48):
        cx, cy = rng.uniform(80, 144, 2)
        a, b = rng.uniform(20, 75, 2)
        angle = np.arctan2(y - cy, x - cx)
        radius = np.hypot((x - cx) / a, (y - cy) / b)
        wave = 0.15 * np.cos(3 * angle + rng.uniform(0, 6)) + 0.1 * np.cos(2 * angle)
        mask = [
            radius < 1,
            (np.abs(x - cx) < a) & (np.abs(y - cy) < b),
            (radius < 1) & (radius > 0.5),
            radius < 0.8 + wave,
        ][number % 4]
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        found.append((mask, (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)))
    return found


@pytest.mark.parametrize("rule", list(PasteRule))
def test_the_shipped_codec_brings_shapes_back_through_words(rule):
    codec = read_mask_codec(SHIPPED)
    masks, boxes = zip(*shapes(), strict=True)
    codes = encode_masks(codec, masks, boxes)
    overlaps = []
    for mask, box, row in zip(masks, boxes, codes, strict=True):
        text = format_object(encode_box(box, (224, 224)), "shape", row.tolist())
        (segment,) = to_segments(codec, parse(text), (224, 224), rule)
        overlaps.append((segment.inside & mask).sum() / (segment.inside | mask).sum())
    assert np.mean(overlaps) >= 0.90
    assert np.min(overlaps) >= 0.70


def test_the_shipped_codec_is_small_and_has_128_codes():
    codec = read_mask_codec(SHIPPED)
    assert SHIPPED.stat().st_size <= 1.2 * 2**20
    assert codec.codebook.shape == (128, 128)
    assert torch.isfinite(codec.codebook).all()
