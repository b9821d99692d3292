"""The named shapes, built without memory and counted."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from heliodor.checkpoints.blueprint import blueprint as on_meta
from heliodor.models.gemma import GemmaConfig, GemmaLayer
from heliodor.models.paligemma import PaliGemmaConfig
from heliodor.models.presets import (
    PALIGEMMA_3B_224,
    PALIGEMMA_3B_448,
    PALIGEMMA_3B_896,
    PUBLISHED,
    tiny,
)

# Parameters of big_vision's files by decoder and pixels (the hub's have 64 rows more), and tensors.
PALIGEMMA2 = {
    "3b": ({224: 3_032_094_960, 448: 3_032_979_696, 896: 3_036_518_640}, 727),
    "10b": ({224: 9_662_409_456, 448: 9_663_294_192, 896: 9_666_833_136}, 903),
    "28b": ({224: 27_650_192_112, 448: 27_651_076_848, 896: 27_654_615_792}, 947),
}
# Width, layers, MLP, query heads, key-value heads, channels of a head, divisor of scores squared.
GEMMA2 = {
    "3b": (2304, 26, 9216, 8, 4, 256, 256),
    "10b": (3584, 42, 14336, 16, 8, 256, 256),
    "28b": (4608, 46, 36864, 32, 16, 128, 144),
}


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


def test_all_published_models_of_the_second_generation_are_in_the_table() -> None:
    second = {name.removeprefix("google/paligemma2-") for name in PUBLISHED if "gemma2" in name}
    assert second == {
        *("3b-pt-224", "3b-pt-448", "3b-pt-896", "3b-mix-224", "3b-mix-448", "3b-ft-docci-448"),
        *("10b-pt-224", "10b-pt-448", "10b-pt-896", "10b-mix-224", "10b-mix-448"),
        *("10b-ft-docci-448", "28b-pt-224", "28b-pt-448", "28b-pt-896"),
        *("28b-mix-224", "28b-mix-448"),
    }


@pytest.mark.parametrize("name", [name for name in PUBLISHED if "gemma2" in name])
def test_they_have_the_published_numbers(name: str) -> None:
    config = PUBLISHED[name]
    size, pixels = name.split("-")[1], int(name.split("-")[-1])
    parameters, tensors = PALIGEMMA2[size]
    model = on_meta(config)
    assert config.vision.image_size == pixels
    assert config.vision.num_tokens == (pixels // 14) ** 2
    assert count(model) == parameters[pixels] + 64 * config.language.width
    assert len(model.state_dict()) == tensors


@pytest.mark.parametrize("size", GEMMA2)
def test_their_decoders_are_those_of_the_report(size: str) -> None:
    config = PUBLISHED[f"google/paligemma2-{size}-pt-224"].language
    width, depth, mlp_width, heads, kv_heads, head_dim, divisor = GEMMA2[size]
    assert config == GemmaConfig(
        width=width,
        depth=depth,
        mlp_width=mlp_width,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        sandwich=True,
        query_scale=divisor**-0.5,
        attention_cap=50.0,
        final_cap=30.0,
        window=4096,
    )
    layer = on_meta(PUBLISHED[f"google/paligemma2-{size}-pt-224"]).language.layers[0]
    assert isinstance(layer, GemmaLayer)
    shapes = {name: tuple(value.shape) for name, value in layer.attention.state_dict().items()}
    assert shapes == {
        "q.weight": (heads * head_dim, width),
        "k.weight": (kv_heads * head_dim, width),
        "v.weight": (kv_heads * head_dim, width),
        "out.weight": (width, heads * head_dim),
    }
    assert heads * head_dim != width


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
