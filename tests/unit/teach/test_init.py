"""Fresh parameters: their sizes by the rule, every one of them drawn."""

from __future__ import annotations

import math

import pytest
import torch
from tests import tiny
from torch import nn

from heliodor.models.gemma import GemmaConfig
from heliodor.models.pair import SiglipPair, SiglipPairConfig, SiglipTextConfig
from heliodor.models.paligemma import PaliGemma, PaliGemmaConfig
from heliodor.models.siglip import SiglipVisionConfig
from heliodor.teach.init import centre_pair, initialise

VISION = SiglipVisionConfig(
    image_size=64, patch_size=8, width=64, depth=2, num_heads=2, mlp_width=128
)


def paligemma() -> PaliGemma:
    language = GemmaConfig(
        vocab_size=512,
        width=64,
        depth=3,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        mlp_width=96,
    )
    return PaliGemma(PaliGemmaConfig(vision=VISION, language=language, image_token=None))


def pair() -> SiglipPair:
    text = SiglipTextConfig(
        vocab_size=300, length=40, width=64, depth=2, num_heads=2, mlp_width=128
    )
    return SiglipPair(SiglipPairConfig(vision=VISION, text=text))


def spoilt(module: nn.Module) -> nn.Module:
    """Every parameter not a number."""
    for parameter in module.parameters():
        nn.init.constant_(parameter, math.nan)
    return module


def spreads(module: nn.Module) -> dict[str, float]:
    return {name: float(p.detach().square().mean().sqrt()) for name, p in module.named_parameters()}


def left_out(module: nn.Module) -> set[str]:
    return {name for name, p in module.named_parameters() if p.isnan().any()}


def test_every_parameter_of_a_paligemma_is_drawn() -> None:
    model = spoilt(paligemma())
    initialise(model, 1)
    assert left_out(model) == set()


def test_every_parameter_of_a_pair_is_drawn_but_the_two_that_scale_its_cosines() -> None:
    model = spoilt(pair())
    initialise(model, 1)
    assert left_out(model) == {"logit_scale", "logit_bias"}


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("vision.patch.weight", (3 * 8 * 8) ** -0.5),
        ("vision.position", 64**-0.5),
        ("vision.blocks.1.attention.q.weight", 64**-0.5),
        ("vision.blocks.1.attention.out.weight", (64 * 2 * 2) ** -0.5),  # of 2 blocks
        ("vision.blocks.0.mlp.up.weight", 64**-0.5),
        ("vision.blocks.0.mlp.down.weight", (128 * 2 * 2) ** -0.5),
        ("projector.weight", 64**-0.5),
        ("language.embedding.weight", 64**-0.5),
        ("language.layers.2.attention.k.weight", 64**-0.5),
        ("language.layers.2.attention.out.weight", (64 * 2 * 3) ** -0.5),  # of 3 layers
        ("language.layers.0.mlp.gate.weight", 64**-0.5),
        ("language.layers.0.mlp.down.weight", (96 * 2 * 3) ** -0.5),
    ],
)
def test_sizes_of_a_paligemma(name: str, wanted: float) -> None:
    """Root mean squares; 2,048 draws or more lie within 8 % (five standard errors)."""
    model = paligemma()
    initialise(model, 3)
    assert spreads(model)[name] == pytest.approx(wanted, rel=0.08)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("vision.blocks.1.mlp.down.weight", (128 * 2 * 2) ** -0.5),
        ("text.embedding.weight", 64**-0.5),
        ("text.position", 64**-0.5),
        ("text.blocks.1.attention.out.weight", 64**-0.5),  # not narrowed: the tower is shallow
        ("text.blocks.1.mlp.down.weight", 128**-0.5),
        ("text.head.weight", 64**-0.5),
        ("pool.out.weight", 64**-0.5),
        ("pool.mlp.down.weight", 128**-0.5),
    ],
)
def test_sizes_of_a_pair(name: str, wanted: float) -> None:
    model = pair()
    initialise(model, 3)
    assert spreads(model)[name] == pytest.approx(wanted, rel=0.08)


def test_norms_and_biases_start_neutral() -> None:
    model = spoilt(paligemma())
    initialise(model, 3)
    for name, parameter in model.named_parameters():
        if name.endswith(("bias", "scale")):
            assert (parameter == 0).all(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name


def test_a_seed_is_a_network() -> None:
    models = [paligemma() for _ in range(3)]
    for model, seed in zip(models, (5, 5, 6), strict=True):
        initialise(model, seed)
    first, same, other = (model.state_dict() for model in models)
    assert all(torch.equal(first[name], same[name]) for name in first)
    key = "language.layers.0.attention.q.weight"
    assert not torch.equal(first[key], other[key])


def test_a_centred_pair_has_no_mean_direction_left() -> None:
    model = pair()
    initialise(model, 0)
    pixels = tiny.pixels(6, VISION)
    tokens = torch.randint(0, 300, (6, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model.pool(model.vision(pixels)).mean(0).norm()
        centre_pair(model, pixels, tokens)
        pictures, texts = model.pool(model.vision(pixels)), model.text(tokens)
    assert float(before) > 0.1
    # The network of the pooling head reads what the first shift moved: its own shift is exact.
    assert float(pictures.mean(0).norm()) < 1e-5
    assert float(texts.mean(0).norm()) < 1e-5
