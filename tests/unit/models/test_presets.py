"""The named shapes, built without memory and counted."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from heliodor.models.paligemma import PaliGemma, PaliGemmaConfig
from heliodor.models.presets import (
    PALIGEMMA_3B_224,
    PALIGEMMA_3B_448,
    PALIGEMMA_3B_896,
    tiny,
)


def on_meta(config: PaliGemmaConfig) -> PaliGemma:
    with torch.device("meta"):
        return PaliGemma(config)


def count(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("config", "pixels", "tokens", "parameters"),
    [
        (PALIGEMMA_3B_224, 224, 256, 2_923_466_480),
        (PALIGEMMA_3B_448, 448, 1024, 2_924_351_216),
        (PALIGEMMA_3B_896, 896, 4096, 2_927_890_160),
    ],
)
def test_official_sizes_have_the_published_number_of_parameters(
    config: PaliGemmaConfig, pixels: int, tokens: int, parameters: int
) -> None:
    assert config.vision.image_size == pixels
    assert config.vision.num_tokens == tokens
    model = on_meta(config)
    assert count(model) == parameters
    assert len(model.state_dict()) == 603


def test_the_parts_have_their_published_sizes() -> None:
    """big_vision's table ends at <seg127>; the hub's files hold 64 rows more."""
    model = on_meta(PALIGEMMA_3B_224)
    assert count(model.vision) + count(model.projector) == 414_803_696
    assert count(model.language) - 64 * 2048 == 2_508_531_712
    assert count(model.language.layers[0]) == 110_104_576
    assert model.language.embedding.weight.numel() - 64 * 2048 == 526_647_296


def test_padding_rows_and_the_placeholder_are_never_predicted() -> None:
    assert PALIGEMMA_3B_224.num_predicted == 257_152
    assert replace(PALIGEMMA_3B_224, image_token=None).num_predicted == 257_216


@pytest.mark.parametrize(("pixels", "tokens"), [(224, 196), (160, 100)])
def test_the_shipped_shape_keeps_to_its_budget(pixels: int, tokens: int) -> None:
    config = tiny(3713, 3712, pixels)
    assert config.vision.image_size == pixels
    assert config.vision.num_tokens == tokens
    assert config.num_predicted == 3712
    assert config.language.context >= 2 * tokens + 512
    assert count(on_meta(config)) <= 20_000_000
