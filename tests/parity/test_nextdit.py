"""The painting transformer against diffusers' LuminaNextDiT2DModel, on the same random weights."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from tests import painting, tiny
from tests.painting import SMALL
from torch import Tensor

from heliodor.models.nextdit import NextDiT
from heliodor.models.nextdit_config import NextDiTConfig
from heliodor.models.nextdit_rope import DIFFUSERS, Scaling, Unscaled, Watershed

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.parity

CLOSE = 1e-5
AS_TRAINED = Unscaled()


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A network, pictures of one size, captions, times, and how positions are scaled."""

    config: NextDiTConfig = SMALL
    size: tuple[int, int] = (16, 16)
    captions: tuple[int, ...] = (5, 5)
    times: tuple[float, ...] = (0.25, 0.25)
    scaling: Scaling = AS_TRAINED
    linear: float = 1.0
    ntk: float = 1.0
    proportional: bool = False


CASES = {
    "square": Case(),
    "wide": Case(size=(8, 20)),
    "tall": Case(size=(28, 6), captions=(4,), times=(0.6,)),
    "masks": Case(captions=(7, 1, 4), times=(0.0, 1.0, 0.5)),
    "as many key-value heads": Case(config=replace(SMALL, num_kv_heads=6)),
    "one key-value head": Case(config=replace(SMALL, num_kv_heads=1), size=(12, 16)),
    "odd heads": Case(config=replace(SMALL, width=60, num_heads=5, num_kv_heads=5, mlp_width=96)),
    "three heads": Case(config=replace(SMALL, width=36, num_heads=3, num_kv_heads=1, mlp_width=40)),
    "16 channels, velocity alone": Case(
        config=replace(SMALL, in_channels=16, learns_sigma=False, norm_eps=1e-3)
    ),
    "no query norm": Case(config=replace(SMALL, qk_norm=False)),
    "patch of one": Case(config=replace(SMALL, patch_size=1, in_channels=3), size=(8, 6)),
    "larger, early": Case(
        size=(32, 24), scaling=Watershed(), linear=math.sqrt(3), proportional=True
    ),
    "larger, late": Case(
        size=(32, 24),
        times=(0.3001, 0.9),
        scaling=Watershed(),
        ntk=math.sqrt(3),
        proportional=True,
    ),
    "smaller, as released": Case(size=(8, 12), scaling=Watershed(), proportional=True),
    "smaller, as diffusers": Case(
        size=(8, 12), scaling=DIFFUSERS, linear=math.sqrt(96 / 256), proportional=True
    ),
}


def their_velocity(model: Any, case: Case, latents: Tensor, features: Tensor, mask: Tensor) -> Any:
    from diffusers.models.embeddings import get_2d_rotary_pos_embed_lumina

    table = get_2d_rotary_pos_embed_lumina(
        model.head_dim, 40, 40, linear_factor=case.linear, ntk_factor=case.ntk
    )
    kwargs = {}
    if case.proportional:
        kwargs["base_sequence_length"] = case.config.native_patches
    with torch.no_grad():
        out = model(
            hidden_states=latents,
            timestep=torch.tensor(case.times),
            encoder_hidden_states=features,
            encoder_mask=mask,
            image_rotary_emb=table,
            cross_attention_kwargs=kwargs,
        ).sample
    return out[:, : case.config.in_channels]


@pytest.mark.parametrize("name", CASES)
def test_the_velocity_is_theirs(name: str) -> None:
    case = CASES[name]
    model = painting.nextdit(case.config)
    latents = painting.noise(len(case.captions), case.config.in_channels, *case.size)
    features, mask = painting.captions(*case.captions)
    expected = their_velocity(painting.theirs(model), case, latents, features, mask)
    with torch.no_grad():
        canvas = model.canvas(
            [case.size] * len(latents), scaling=case.scaling, proportional=case.proportional
        )
        found = model(latents, torch.tensor(case.times), model.prepare(features, mask), canvas)
    assert tiny.relative_error(found, expected) <= CLOSE


@pytest.mark.parametrize("name", [n for n, _ in painting.nextdit().named_parameters()])
def test_every_tensor_changes_the_velocity(name: str) -> None:
    """Otherwise the comparison above would not see it."""
    with torch.no_grad():
        before = velocity(painting.nextdit(), two_sizes=name == "pad_token")
        model = painting.nextdit()
        parameter = model.get_parameter(name)
        parameter.add_(painting.noise(*parameter.shape, seed=9) * 0.3)
        moved = [
            tiny.relative_error(a, b)
            for a, b in zip(velocity(model, two_sizes=name == "pad_token"), before, strict=True)
        ]
    blind = name == "pad_token" or name.endswith("caption_k_norm.bias")
    assert (max(moved) < 1e-6) if blind else (max(moved) > 1e-4)


def velocity(model: NextDiT, *, two_sizes: bool) -> list[Tensor]:
    features, mask = painting.captions(5, 3)
    small = (4, 8, 8) if two_sizes else (4, 8, 12)
    latents = [painting.noise(4, 8, 12), painting.noise(*small, seed=4)]
    return list(model(latents, 0.4, model.prepare(features, mask)))
