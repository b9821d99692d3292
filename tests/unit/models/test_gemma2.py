"""Gemma 2 in PaliGemma: against numpy, and cached against uncached with the window crossed."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests import tiny
from tests.reference import gemma2
from torch import Tensor

from heliodor.errors import ConfigError
from heliodor.models.gemma import GemmaConfig, GemmaLayer
from heliodor.models.paligemma import PaliGemma
from heliodor.nn import attention, linear
from heliodor.nn.cache import KVCache

PROMPTS = [[2, 9, 31, 7, 7, 3], [2, 3], [2, 40, 11, 3]]
SUFFIX = torch.randint(3, 45, (3, 9), generator=torch.Generator().manual_seed(1))
IMAGES = [[1, 1, 1], [0, 0, 0], [1, 3, 2], [0, 2, 1]]
CLOSE = 5e-6  # float32 roundings through three layers; low caps make logits small beside them


def make(**changes: Any) -> PaliGemma:
    return tiny.paligemma(language=replace(tiny.LANGUAGE2, **changes))


def layers_of(model: PaliGemma) -> list[GemmaLayer]:
    return [layer for layer in model.language.layers if isinstance(layer, GemmaLayer)]


@torch.no_grad()
def features_of(model: PaliGemma, images: list[int]) -> list[Tensor]:
    """Image tokens of each row, [M W]."""
    encoded = model.encode_images(tiny.pixels(max(1, sum(images)), model.config.vision, seed=5))
    return [group.flatten(0, 1) for group in encoded[: sum(images)].split(images)]


def prefill(model: PaliGemma, rows: list[Tensor]) -> tuple[Tensor, KVCache]:
    """Prompts padded in front, pictures behind, as the engine joins them."""
    longest, most = max(map(len, PROMPTS)), max(map(len, rows))
    tokens = torch.tensor([[0] * (longest - len(p)) + p for p in PROMPTS])
    valid = torch.tensor([[False] * (longest - len(p)) + [True] * len(p) for p in PROMPTS])
    features = torch.full((len(rows), most, 32), 7.0)  # padding that would show
    feature_valid = torch.zeros(len(rows), most, dtype=torch.bool)
    for row, found in enumerate(rows):
        features[row, : len(found)], feature_valid[row, : len(found)] = found, True
    if most == 0:
        return model.prefill(tokens, None, valid)
    return model.prefill(tokens, features, valid, feature_valid)


def uncached(model: PaliGemma, row: int, features: Tensor) -> Tensor:
    """Logits after the prompt and after each token of the suffix, [1+S V]."""
    prompt = PROMPTS[row]
    tokens = torch.tensor([prompt + SUFFIX[row].tolist()])
    pictures = features[None] if len(features) else None
    return model(tokens, pictures, torch.tensor([len(prompt)]))[0, len(prompt) - 1 :]


@pytest.mark.parametrize("window", [1, 4, 21])
@torch.no_grad()
def test_logits_equal_those_of_numpy(window: int) -> None:
    """Sixteen image tokens, six of prompt, nine behind them."""
    model = make(window=window)
    features = features_of(model, [1])[0]
    config = model.config.language
    tokens = torch.tensor([PROMPTS[0] + SUFFIX[0].tolist()])
    x = model.join(features[None], tokens)[0]
    expected = gemma2.logits(
        {name: value.double().numpy() for name, value in model.language.state_dict().items()},
        x.double().numpy(),
        len(features) + len(PROMPTS[0]),
        heads=(config.num_heads, config.num_kv_heads),
        eps=config.norm_eps,
        base=config.rope_base,
        scale=1 / 3,
        caps=(1.5, 1.0),
        window=window,
    )[len(features) :]
    found = model(tokens, features[None], torch.tensor([len(PROMPTS[0])]))[0]
    assert tiny.relative_error(found, torch.from_numpy(expected).float()) < CLOSE


@pytest.mark.parametrize("images", IMAGES, ids=str)
@pytest.mark.parametrize("window", [1, 2, 4, 20, 60])
@torch.no_grad()
def test_prefill_and_steps_equal_one_forward_pass(window: int, images: list[int]) -> None:
    model = make(window=window)
    rows = features_of(model, images)
    first, cache = prefill(model, rows)
    found = [first] + [model.step(token, cache) for token in SUFFIX.T]
    for row, features in enumerate(rows):
        expected = uncached(model, row, features)
        assert tiny.relative_error(torch.stack([x[row] for x in found]), expected) < CLOSE


@torch.no_grad()
def test_selected_rows_keep_their_window() -> None:
    model = make()
    rows = features_of(model, [1, 3, 2])
    _, cache = prefill(model, rows)
    model.step(SUFFIX[:, 0], cache)
    order = [2, 0, 0, 1]
    found = model.step(SUFFIX[order, 1], cache.select(torch.tensor(order)))
    for place, row in enumerate(order):
        expected = uncached(model, row, rows[row])[2]
        assert tiny.relative_error(found[place], expected) < CLOSE


@torch.no_grad()
def test_the_window_ends_the_view_of_a_local_layer_and_never_inside_the_prefix() -> None:
    """One layer, which is local: what a change at one place moves is what saw that place."""
    model = make(depth=1)
    features = features_of(model, [1])[0][None]
    tokens, prefix = torch.tensor([[2, 9, 3, 8, 5, 30, 12, 6]]), torch.tensor([3])
    before = model.hidden(tokens, features, prefix)

    def moved(place: int) -> list[int]:
        changed = tokens.clone()
        changed[0, place] = 17
        far = (model.hidden(changed, features, prefix) - before).abs().amax(2)[0] > 1e-4
        return far.nonzero().flatten().tolist()

    assert moved(0) == [0, 1, 2, 3]
    assert moved(2) == [0, 1, 2, 3, 4, 5]
    assert moved(4) == [4, 5, 6, 7]
    shifted = features.clone()
    shifted[:, 0] += 1.0  # sixteen positions before <bos>
    far = (model.hidden(tokens, shifted, prefix) - before).abs().amax(2)[0] > 1e-4
    assert far.nonzero().flatten().tolist() == [0, 1, 2]


@torch.no_grad()
def test_odd_layers_see_all_the_way_back() -> None:
    config = tiny.LANGUAGE2
    assert [config.is_local(layer) for layer in range(4)] == [True, False, True, False]
    assert not any(tiny.LANGUAGE.is_local(layer) for layer in range(4))
    model = make(depth=2)
    features = features_of(model, [1])[0][None]
    tokens, prefix = torch.tensor([[2, 9, 3, 8, 5, 30, 12, 6]]), torch.tensor([3])
    shifted = features.clone()
    shifted[:, 0] += 1.0
    far = model.hidden(tokens, shifted, prefix) - model.hidden(tokens, features, prefix)
    assert float(far.abs().amax(2).min()) > 1e-4


@torch.no_grad()
def test_a_window_longer_than_the_row_is_none() -> None:
    features = features_of(make(), [1])[0]
    found = uncached(make(window=31), 0, features)
    assert torch.equal(found, uncached(make(window=None), 0, features))
    assert tiny.relative_error(uncached(make(window=30), 0, features), found) > 0


@torch.no_grad()
def test_the_final_cap_bends_every_logit_and_changes_no_order() -> None:
    capped, plain = make(), make(final_cap=None)
    rows = features_of(plain, [1, 1, 1])
    found, expected = uncached(capped, 0, rows[0]), uncached(plain, 0, rows[0])
    assert float(expected.abs().max()) > 3, "logits were to reach far beyond the cap of 1"
    torch.testing.assert_close(found, torch.tanh(expected), rtol=0, atol=1e-6)
    assert torch.equal(found.argmax(-1), expected.argmax(-1))
    first, cache = prefill(capped, rows)
    exact, other = prefill(plain, rows)
    torch.testing.assert_close(first, torch.tanh(exact), rtol=0, atol=1e-6)
    later, exact = capped.step(SUFFIX[:, 0], cache), plain.step(SUFFIX[:, 0], other)
    torch.testing.assert_close(later, torch.tanh(exact), rtol=0, atol=1e-6)


@torch.no_grad()
def test_saturated_attention_still_equals_numpy_and_its_cache() -> None:
    """Scores in the hundreds: all are at plus or minus the cap, and their signs alone count."""
    model = make()
    for layer in layers_of(model):
        layer.attention.q.weight.mul_(100)
    rows = features_of(model, [1, 3, 2])
    first, cache = prefill(model, rows)
    found = [first] + [model.step(token, cache) for token in SUFFIX.T]
    for row, features in enumerate(rows):
        expected = uncached(model, row, features)
        # a score that is near zero among the saturated ones magnifies the roundings before it
        assert tiny.relative_error(torch.stack([x[row] for x in found]), expected) < 1e-4
    uncapped = make(attention_cap=None)
    uncapped.load_state_dict(model.state_dict())
    plain = uncached(uncapped, 0, rows[0])
    assert tiny.relative_error(uncached(model, 0, rows[0]), plain) > 0.05


@torch.no_grad()
def test_float16_arithmetic_stays_finite_and_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a graphics card, products in float16, whose range three quantities leave on the way."""
    wide = make(attention_cap=50.0, final_cap=30.0)
    for layer in layers_of(wide):
        layer.pre_mlp_norm.scale.add_(2000)
        layer.post_mlp_norm.get_parameter("scale").add_(3e4)
        layer.attention.q.weight.mul_(200)
        layer.attention.k.weight.mul_(200)
    half = copy.deepcopy(wide).half()
    wide = copy.deepcopy(half).float()
    rows = features_of(wide, [1, 3, 2])
    reached: dict[str, float] = {}

    def note(name: str, value: Tensor) -> None:
        reached[name] = max(reached.get(name, 0.0), float(value.abs().max()))

    last = layers_of(wide)[-1]
    last.register_forward_hook(lambda *call: note("residual", call[-1]))
    last.mlp.down.register_forward_hook(lambda *call: note("gated", call[1][0]))
    capped = attention._capped

    def noted(scores: Tensor, scale: float, cap: float) -> Tensor:
        note("scores", scores)
        return capped(scores, scale, cap)

    with monkeypatch.context() as patched:
        patched.setattr(attention, "_capped", noted)
        expected, wide_cache = prefill(wide, rows)
    assert min(reached.values()) > 65504, reached
    assert len(reached) == 3
    monkeypatch.setattr(linear, "arithmetic", lambda dtype, device: dtype)
    found, half_cache = prefill(half, rows)
    assert bool(found.isfinite().all())
    assert tiny.relative_error(found, expected) < 0.02
    found, expected = half.step(SUFFIX[:, 0], half_cache), wide.step(SUFFIX[:, 0], wide_cache)
    assert bool(found.isfinite().all())
    assert tiny.relative_error(found, expected) < 0.02


@torch.no_grad()
def test_every_norm_cap_and_scale_counts() -> None:
    features = features_of(make(), [1])[0]
    expected = uncached(make(), 0, features)
    for field in ("attention_cap", "query_scale", "window"):
        changed = make(**{field: None})
        assert tiny.relative_error(uncached(changed, 0, features), expected) > 1e-3, field
    model = make()
    for name, parameter in model.language.named_parameters():
        kept = parameter.clone()
        parameter.mul_(torch.linspace(0.8, 1.2, parameter.numel()).view_as(parameter))
        assert tiny.relative_error(uncached(model, 0, features), expected) > 1e-3, name
        parameter.copy_(kept)


def test_gradients_reach_every_tensor() -> None:
    model = make()
    features = features_of(model, [1])[0]
    tokens = torch.tensor([PROMPTS[0] + SUFFIX[0].tolist()])
    model(tokens, features[None], torch.tensor([6])).square().sum().backward()
    for name, parameter in model.language.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().max()) > 1e-3, name


@pytest.mark.parametrize(
    ("field", "value"),
    [("attention_cap", 0.0), ("final_cap", -1.0), ("window", 0), ("query_scale", float("nan"))],
)
def test_no_cap_is_none_and_not_zero(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{field} is .*; expected a number above 0, or None"):
        GemmaConfig(**{field: value})  # pyright: ignore[reportArgumentType]
