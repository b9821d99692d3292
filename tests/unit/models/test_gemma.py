"""The decoder on its own; transformers is compared with in tests/parity."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from tests import tiny
from torch.nn import functional as F

from heliodor.errors import ConfigError
from heliodor.models.gemma import Gemma, GemmaConfig
from heliodor.nn.mask import padding, prefix_lm

TOKENS = torch.tensor([[2, 9, 31, 7, 7, 40], [2, 1, 5, 44, 20, 3]])
POSITIONS = torch.arange(6).expand(2, 6)


def run(model: Gemma, mask: torch.Tensor | None, keep: int | None = None) -> torch.Tensor:
    return model(model.embed(TOKENS), POSITIONS, mask, keep=keep)


def test_embedded_rows_are_scaled_and_the_head_is_not() -> None:
    model = tiny.gemma()
    table = model.embedding.weight
    torch.testing.assert_close(model.embed(TOKENS), table[TOKENS] * math.sqrt(32))
    hidden = torch.eye(32)[None, :5]
    assert torch.equal(model.logits(hidden)[0], table.T[:5])


@pytest.mark.parametrize("keep", [1, 2, 5, 6])
@pytest.mark.parametrize("kind", ["none", "prefix", "padding"])
@torch.no_grad()
def test_keeping_the_last_positions_is_slicing(kind: str, keep: int) -> None:
    model = tiny.gemma()
    valid = torch.tensor([[False, False, True, True, True, True], [True] * 6])
    masks = {
        "none": None,
        "prefix": prefix_lm(torch.tensor([3, 2]), 6),
        "padding": padding(valid),
    }
    whole = run(model, masks[kind])
    kept = run(model, masks[kind], keep)
    assert kept.shape == (2, keep, 32)
    assert tiny.relative_error(kept, whole[:, -keep:]) < 1e-6


@torch.no_grad()
def test_a_causal_position_does_not_depend_on_what_follows() -> None:
    model = tiny.gemma()
    causal = prefix_lm(torch.tensor([0, 0]), 6)
    before = run(model, causal)
    changed = model(model.embed(TOKENS.flip(0)), POSITIONS, causal)
    assert float((changed - before)[:, 1:].abs().amax(2).min()) > 1e-3
    assert float((changed - before)[:, 0].abs().max()) < 1e-5  # both rows begin with <bos>


@torch.no_grad()
def test_only_distances_between_positions_count() -> None:
    model = tiny.gemma()
    x = model.embed(TOKENS)
    near = model(x, POSITIONS, None)
    assert tiny.relative_error(model(x, POSITIONS + 50, None), near) < 2e-5
    assert tiny.relative_error(model(x, POSITIONS * 2, None), near) > 1e-2


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (4, 2), (4, 1)])
def test_training_and_inference_agree(heads: int, groups: int) -> None:
    """Attention takes another branch where gradients are recorded."""
    model = tiny.gemma(replace(tiny.LANGUAGE, num_heads=heads, num_kv_heads=groups))
    mask = prefix_lm(torch.tensor([3, 2]), 6)
    trained = run(model, mask).detach()
    with torch.no_grad():
        inferred = run(model, mask)
    assert tiny.relative_error(trained, inferred) < 2e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_narrow_weights_give_what_float32_gives_on_them(dtype: torch.dtype) -> None:
    narrow = tiny.gemma().to(dtype)
    wide = copy.deepcopy(narrow).float()
    mask = prefix_lm(torch.tensor([3, 2]), 6)
    found = run(narrow, mask)
    assert found.dtype == torch.float32
    assert torch.equal(found, run(wide, mask))
    assert torch.equal(narrow.logits(found), wide.logits(found))


@torch.no_grad()
def test_a_residual_beyond_float16_reaches_the_end() -> None:
    """Gemma's residual stream grows past 65,504; float16 storage must not cap it."""
    narrow = tiny.gemma().half()
    down = narrow.get_parameter("layers.0.mlp.down.weight")
    down.mul_(60_000 / float(down.abs().max()))
    wide = copy.deepcopy(narrow).float()
    streams: list[torch.Tensor] = []
    narrow.layers[1].register_forward_pre_hook(lambda _, inputs: streams.append(inputs[0]))
    found = narrow.logits(run(narrow, None))
    assert float(streams[0].abs().max()) > 65_504
    assert bool(found.isfinite().all())
    assert tiny.relative_error(found, wide.logits(run(wide, None))) < 1e-6


def test_every_tensor_moves_the_logits() -> None:
    model = tiny.gemma()
    mask = prefix_lm(torch.tensor([3, 2]), 6)
    loss = F.cross_entropy(model.logits(run(model, mask)).flatten(0, 1), TOKENS.flatten())
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().max()) > 1e-5, name


def test_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ConfigError, match="8 query heads do not divide among 3 key-value heads"):
        GemmaConfig(num_kv_heads=3)


def test_an_odd_head_is_refused() -> None:
    with pytest.raises(ConfigError, match="head_dim 7 is odd"):
        GemmaConfig(head_dim=7)
