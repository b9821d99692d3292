"""Whole networks with quantised layers: what is replaced, what stays, and that all ways agree."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests import tiny
from torch import nn

from heliodor.errors import ConfigError
from heliodor.models.pair import SiglipPair
from heliodor.models.paligemma import PaliGemma
from heliodor.quant import INT4, INT8, Recipe, Rule, recipe
from heliodor.quant.apply import apply_empty, quantisable, quantise, recipe_of
from heliodor.quant.linear import QuantEmbedding, QuantLinear4, QuantLinear8

WIDE = replace(tiny.LANGUAGE, width=64, head_dim=16, mlp_width=128, num_kv_heads=1)
WIDE2 = replace(tiny.LANGUAGE2, width=64, head_dim=16, mlp_width=128)
"""Groups of 64 that are whole, and that are not."""


def dequantised(network: nn.Module) -> dict[str, torch.Tensor]:
    """The float weights that stand for a quantised network, by the names it had before."""
    state: dict[str, torch.Tensor] = {}
    for name, module in network.named_modules():
        if isinstance(module, QuantLinear8 | QuantLinear4 | QuantEmbedding):
            state[f"{name}.weight"] = module.dequantised()
            bias = dict(module.named_buffers()).get("bias")
            if bias is not None:
                state[f"{name}.bias"] = bias
    return state


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_every_layer_is_replaced_and_near_what_it_was(name: str) -> None:
    before = {n: p.detach().clone() for n, p in tiny.paligemma(language=WIDE).named_parameters()}
    network = tiny.paligemma(language=WIDE)
    told: list[tuple[str, int, int]] = []
    done = quantise(network, recipe(name), lambda *seen: told.append(seen))
    assert not list(quantisable(network))
    assert done.counts() == ({"int8": 35} if name == "int8" else {"int8": 14, "int4": 21})
    assert told[0][0] == "vision.blocks.0.attention.q"
    assert (
        told[-1][1]
        == told[-1][2]
        == sum(p.numel() for n, p in before.items() if n.removesuffix(".weight") in done.schemes)
    )
    assert done.after < (0.40 if name == "int8" else 0.33) * done.before
    bound = {INT8: 0.012, INT4: 0.11}
    for layer, weight in dequantised(network).items():
        scheme = done.schemes[layer.removesuffix(".weight").removesuffix(".bias")]
        error = float((weight - before[layer]).norm() / before[layer].norm())
        assert 0 < error < bound[scheme] if layer.endswith("weight") else error == 0
    kept = {n for n, _ in network.named_parameters()}
    assert "vision.patch.weight" in kept
    assert all(torch.equal(p, before[n]) for n, p in network.named_parameters())
    assert not any(p.requires_grad for p in network.parameters())


def run(network: PaliGemma, rows: int = 3) -> torch.Tensor:
    """Logits over a text behind pictures."""
    features = network.encode_images(tiny.pixels(rows))
    tokens = torch.tensor([[2, 5, 9, 11, 7], [2, 8, 9, 3, 1], [2, 4, 4, 30, 6]])[:rows]
    with torch.no_grad():
        return network(tokens, features, torch.tensor([3, 2, 4])[:rows])


@pytest.mark.parametrize("language", [WIDE, WIDE2], ids=["first", "second"])
@pytest.mark.parametrize("name", ["int8", "int4"])
def test_the_network_is_near_the_one_of_its_dequantised_weights(
    name: str, language: tiny.GemmaConfig
) -> None:
    """What is left between them is the rounding of activations, and a mistake would be far more."""
    network = tiny.paligemma(language=language)
    exact = run(network)
    quantise(network, recipe(name))
    found = run(network)
    plain = tiny.paligemma(language=language)
    plain.load_state_dict({**plain.state_dict(), **dequantised(network)})
    of_weights = run(plain)
    noise = float((found - of_weights).norm() / of_weights.norm())
    assert 1e-4 < noise < 0.05
    assert float((found - exact).norm() / exact.norm()) < (0.06 if name == "int8" else 0.4)


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_a_row_does_not_see_its_batch(name: str) -> None:
    network = tiny.paligemma(language=WIDE)
    quantise(network, recipe(name))
    together = run(network)
    features = network.encode_images(tiny.pixels(3))
    tokens = torch.tensor([[2, 5, 9, 11, 7], [2, 8, 9, 3, 1], [2, 4, 4, 30, 6]])
    with torch.no_grad():
        for index, prefix in enumerate((3, 2, 4)):
            row = slice(index, index + 1)
            alone = network(tokens[row], features[row], torch.tensor([prefix]))
            assert tiny.relative_error(alone[0], together[index]) < 2e-4


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_with_and_without_a_cache_the_logits_are_the_same(name: str) -> None:
    network = tiny.paligemma(language=WIDE)
    quantise(network, recipe(name))
    features = network.encode_images(tiny.pixels(1))
    text = [2, 5, 9, 11, 7, 30]
    with torch.no_grad():
        whole = network(torch.tensor([text]), features, torch.tensor([3]))
        found, cache = network.prefill(
            torch.tensor([text[:3]]), features, torch.ones(1, 3, dtype=torch.bool)
        )
        steps = [found] + [network.step(torch.tensor([token]), cache) for token in text[3:]]
    for index, logits in enumerate(steps):
        # A code may be the next one where attention sums in another order.
        assert tiny.relative_error(logits[0], whole[0, 2 + index]) < 5e-3


def test_a_pair_is_quantised_too() -> None:
    pair = tiny.pair()
    tokens = torch.tensor([[1, 2, 3, 4, 5, 6, 7], [8, 9, 1, 1, 1, 1, 1]])
    with torch.no_grad():
        before = pair(tiny.pixels(2), tokens)
        done = quantise(pair, recipe("int8"))
        after = pair(tiny.pixels(2), tokens)
    assert done.schemes["text.embedding"] == INT8
    assert {"pool.q", "pool.mlp.down", "text.head"} <= done.schemes.keys()
    assert 0 < float((after - before).norm() / before.norm()) < 0.02


def test_a_network_without_values_takes_the_state_of_one_with() -> None:
    mixed = Recipe(
        name="mine",
        rules=(Rule("*.mlp.*", INT4), Rule("vision.*", None), Rule("*", INT8)),
    )
    network = tiny.paligemma(language=WIDE)
    quantise(network, mixed)
    found = recipe_of(network)
    assert found is not None
    with torch.device("meta"):
        other = apply_empty(PaliGemma(network.config), found)
    assert all(value.is_meta for value in other.state_dict().values())
    other.load_state_dict(network.state_dict(), assign=True)
    assert torch.equal(run(other), run(network))
    assert found.scheme_for("vision.blocks.1.mlp.up") == INT4
    assert found.scheme_for("vision.blocks.1.attention.q") is None
    assert found.scheme_for("language.embedding") == INT8


def test_mistakes_are_told() -> None:
    assert recipe_of(tiny.siglip()) is None
    with pytest.raises(ConfigError, match=r"'x' matches none of 12 layers, such as blocks\.0"):
        quantise(tiny.siglip(), Recipe(name="x", rules=(Rule("language.*", INT8),)))
    pair: SiglipPair = tiny.pair()
    quantise(pair, recipe("int8"))
    with pytest.raises(ConfigError, match="matches none of 0 layers: is it quantised already"):
        quantise(pair, recipe("int8"))
    with pytest.raises(ConfigError, match="embedding table is stored in 8 bits, not as int4"):
        quantise(tiny.gemma(), Recipe(name="x", rules=(Rule("*", INT4),)))
