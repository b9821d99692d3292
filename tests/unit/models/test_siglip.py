"""The image tower: patches, precision, shapes. transformers is compared with in tests/parity."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from tests import tiny
from torch.nn import functional as F

from heliodor.errors import ConfigError
from heliodor.models.siglip import LayerNorm, SiglipVisionConfig


@pytest.mark.parametrize("size", [32, 37, 39])
def test_patches_are_those_of_a_convolution_without_padding(size: int) -> None:
    tower = tiny.siglip(replace(tiny.VISION, image_size=size))
    pixels = tiny.pixels(2, tower.config)
    expected = F.conv2d(pixels, tower.patch.weight, tower.patch.bias, stride=8)
    found = tower.embed(pixels)
    assert found.shape == (2, 16, 24)
    # sums of 192 products in another order
    torch.testing.assert_close(found, expected.flatten(2).transpose(1, 2), rtol=0, atol=5e-6)


def test_patches_run_row_by_row_from_the_top_left() -> None:
    tower = tiny.siglip()
    pixels = tiny.pixels(1)
    changed = pixels.clone()
    changed[:, :, 10, 25] += 1.0  # second row of patches, fourth column
    moved = (tower.embed(changed) - tower.embed(pixels)).abs().amax((0, 2))
    assert moved.nonzero().flatten().tolist() == [7]


def test_pixels_beyond_the_last_whole_patch_are_not_looked_at() -> None:
    tower = tiny.siglip(replace(tiny.VISION, image_size=37))
    pixels = tiny.pixels(1, tower.config)
    changed = pixels.clone()
    changed[:, :, 32:], changed[:, :, :, 32:] = 9.0, -9.0
    assert torch.equal(tower(changed), tower(pixels))


@torch.no_grad()
def test_every_patch_sees_every_other_and_its_own_place() -> None:
    tower = tiny.siglip()
    pixels = tiny.pixels(1)
    changed = pixels.clone()
    changed[:, :, :8, :8] += 1.0
    moved = (tower(changed) - tower(pixels)).abs().amax((0, 2))
    assert float(moved.min()) > 1e-3
    swapped = pixels.clone()
    swapped[:, :, :8, :8], swapped[:, :, 8:16, :8] = pixels[:, :, 8:16, :8], pixels[:, :, :8, :8]
    assert float((tower(swapped)[:, 0] - tower(pixels)[:, 4]).abs().max()) > 1e-2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_weights_give_what_float32_gives_on_them(dtype: torch.dtype) -> None:
    narrow = tiny.siglip().to(dtype)
    wide = copy.deepcopy(narrow).float()
    pixels = tiny.pixels(2)
    found = narrow(pixels)
    assert found.dtype == torch.float32
    assert torch.equal(found, wide(pixels))


def test_layer_norm_widens_its_input() -> None:
    norm = LayerNorm(4, eps=1e-6).half()
    x = torch.tensor([[60000.0, -60000.0, 60000.0, -60000.0]]).half()
    assert norm(x).tolist() == [[1.0, -1.0, 1.0, -1.0]]
    assert norm(x).dtype == torch.float32


def test_a_picture_smaller_than_a_patch_is_refused() -> None:
    with pytest.raises(ConfigError, match="image_size 13 is smaller than patch_size 14"):
        SiglipVisionConfig(image_size=13)


def test_a_width_that_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ConfigError, match="width 10 does not divide into 4 heads"):
        replace(tiny.VISION, width=10, num_heads=4)


@pytest.mark.parametrize(("size", "patch", "tokens"), [(224, 14, 256), (30, 14, 4), (384, 14, 729)])
def test_tokens_are_whole_patches(size: int, patch: int, tokens: int) -> None:
    assert SiglipVisionConfig(image_size=size, patch_size=patch).num_tokens == tokens
