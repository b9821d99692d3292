"""Fresh parameters: their sizes by the rule, every one of them drawn."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tests import tiny
from torch import nn

from heliodor.models.gemma import GemmaConfig
from heliodor.models.pair import SiglipPair, SiglipPairConfig, SiglipTextConfig
from heliodor.models.paligemma import PaliGemma, PaliGemmaConfig
from heliodor.models.siglip import SiglipVision, SiglipVisionConfig
from heliodor.teach.init import (
    centre_pair,
    initialise,
    order_rows,
    pattern_rows,
    wave_positions,
)

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


def table(rows: int, width: int) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(9)) * width**-0.5


def test_ordered_rows_resemble_their_neighbours_and_fewer_the_further_away() -> None:
    """A bell of noise: the likeness of two rows falls as exp(-(d / 2 reach)^2), by 1.09 for the
    0.3 of its own that each row has."""
    rows = table(1100, 256)
    before = rows.clone()
    order_rows(rows, 50, 1000, seed=4)
    assert torch.equal(rows[:50], before[:50])
    assert torch.equal(rows[1050:], before[1050:])
    ordered = rows[50:1050]
    assert ordered.norm(dim=1).tolist() == pytest.approx([1.0] * 1000, rel=1e-5)
    for away in (1, 4, 12, 24, 36, 120):
        likeness = float((ordered[away:] * ordered[:-away]).sum(1).mean())
        assert likeness == pytest.approx(math.exp(-((away / 24) ** 2)) / 1.09, abs=0.05)
    assert (ordered[1:] * ordered[:-1]).sum(1).min() > 0.75
    assert (ordered[200:] * ordered[:-200]).sum(1).abs().max() < 0.45


def test_ordered_rows_are_a_function_of_their_seed() -> None:
    first, same, other = (table(80, 32) for _ in range(3))
    for rows, seed in ((first, 1), (same, 1), (other, 2)):
        order_rows(rows, 0, 80, seed, reach=3.0)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_patterned_rows_resemble_each_other_as_their_patterns_do() -> None:
    """Cosines of the centred patterns, by 1.25 for the half that each row has of its own."""
    patterns = torch.randn(6, 8, generator=torch.Generator().manual_seed(2)) + 5.0
    rows = table(10, 4096)
    before = rows.clone()
    pattern_rows(rows, 3, patterns, seed=4)
    assert torch.equal(rows[:3], before[:3])
    assert torch.equal(rows[9:], before[9:])
    assert rows.norm(dim=1)[3:9].tolist() == pytest.approx([1.0] * 6, rel=1e-5)
    centred = patterns - patterns.mean(0)
    wanted = centred @ centred.T / torch.outer(centred.norm(dim=1), centred.norm(dim=1)) / 1.25
    off = ~torch.eye(6, dtype=torch.bool)
    found = (rows[3:9] @ rows[3:9].T)[off]
    assert found.tolist() == pytest.approx(wanted[off].tolist(), abs=0.08)
    assert wanted[off].abs().max() > 0.3


def test_positions_start_as_waves_across_the_picture() -> None:
    tower = SiglipVision(replace(VISION, width=34))
    wave_positions(tower, 0.3)
    found = tower.position.detach()
    line = [index / 7 for index in range(8)]
    for place in (0, 1, 9, 30, 63):
        down, across = line[place // 8], line[place % 8]
        for wave in range(17):
            angle, waves = 2.39996 * wave, math.pi * 2 ** ((wave % 8) / 2)
            phase = waves * (across * math.cos(angle) + down * math.sin(angle))
            assert float(found[place, 2 * wave]) == pytest.approx(0.3 * math.sin(phase), abs=1e-5)
            assert float(found[place, 2 * wave + 1]) == pytest.approx(
                0.3 * math.cos(phase), abs=1e-5
            )
    assert found.norm(dim=1).tolist() == pytest.approx([0.3 * math.sqrt(17)] * 64, rel=1e-5)


def test_near_patches_start_with_near_positions_and_no_two_are_alike() -> None:
    tower = SiglipVision(VISION)
    wave_positions(tower)
    away = torch.cdist(tower.position, tower.position).detach()
    places = torch.tensor([(row, column) for row in range(8) for column in range(8)]).float()
    apart = torch.cdist(places, places)
    near, two, far = ((apart == 1), (apart == 2), (apart > 2))
    assert away[near].max() < away[two].min()
    assert away[near].mean() < away[two].mean() < away[far].mean() - 0.1
    assert away[near].min() > 1.5
