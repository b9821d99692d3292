"""Painting transformers in 8 and 4 bits: which layers stay as they are, and how far it is off."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests import painting
from torch import Tensor, nn

from heliodor.models.gemma import Gemma, GemmaConfig
from heliodor.models.nextdit import NextDiT
from heliodor.quant.apply import quantise
from heliodor.quant.linear import QuantLinear4, QuantLinear8
from heliodor.quant.scheme import INT4, INT8, recipe

WIDE = replace(
    painting.SMALL, width=192, num_heads=6, num_kv_heads=2, mlp_width=256, caption_width=128
)
"""Wide enough that what is rounded averages out as it does in the published sizes."""

FLOAT = {
    "patch",
    "time.first",
    "time.second",
    "caption.out",
    "layers.0.modulation",
    "layers.1.modulation",
    "last.modulation",
    "last.out",
}
PARTS = {
    *(f"attention.{part}" for part in ("q", "k", "v", "caption_k", "caption_v", "out")),
    *(f"mlp.{part}" for part in ("gate", "up", "down")),
}


@torch.no_grad()
def velocity(model: NextDiT) -> Tensor:
    features, mask = painting.captions(7, 3, width=model.config.caption_width)
    found = model(painting.noise(2, 4, 16, 16), 0.4, model.prepare(features, mask))
    assert isinstance(found, Tensor)
    return found


@pytest.mark.parametrize(("name", "kind"), [("int8", QuantLinear8), ("int4", QuantLinear4)])
def test_what_enters_leaves_and_modulates_stays_as_it_is(name, kind):
    model = painting.nextdit(WIDE)
    done = quantise(model, recipe(name))
    kept = {path for path, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert kept == FLOAT
    wanted = {f"layers.{layer}.{part}" for layer in range(2) for part in PARTS}
    assert set(done.schemes) == wanted
    assert all(type(model.get_submodule(path)) is kind for path in wanted)


def test_a_gemma_has_no_layer_that_stays():
    """The painters' rules are in the recipe of every model, and must not meet another's names."""
    sizes: dict[str, Any] = {"num_heads": 4, "num_kv_heads": 1, "head_dim": 16, "mlp_width": 64}
    model = Gemma(GemmaConfig(vocab_size=96, width=64, depth=2, **sizes))
    schemes = quantise(model, recipe("int4")).schemes
    assert schemes.pop("embedding") == INT8
    assert len(schemes) == 14
    assert set(schemes.values()) == {INT4}


@pytest.mark.parametrize(("name", "least", "most"), [("int8", 1e-3, 0.03), ("int4", 0.03, 0.3)])
def test_the_velocity_is_near(name, least, most):
    exact, model = velocity(painting.nextdit(WIDE)), painting.nextdit(WIDE)
    quantise(model, recipe(name))
    off = float((velocity(model) - exact).norm() / exact.norm())
    assert least < off < most


def test_more_float_layers_would_matter():
    """With the condition's layers in 8 bits too, the velocity is further off."""
    exact = velocity(painting.nextdit(WIDE))
    off: list[float] = []
    for rules in (recipe("int8").rules, recipe("int8").rules[-1:]):
        model = painting.nextdit(WIDE)
        quantise(model, replace(recipe("int8"), rules=rules))
        off.append(float((velocity(model) - exact).norm() / exact.norm()))
    assert off[0] < off[1]
