"""The decoder against transformers' GemmaForCausalLM, on the same random weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests import tiny
from torch import Tensor

from heliodor.models.gemma import Gemma, GemmaConfig
from heliodor.nn.cache import KVCache
from heliodor.nn.mask import prefix_lm

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

CLOSE = 3e-6  # float32 roundings through a few layers; the library promises 1e-5
PARTS = {
    "pre_attention_norm.scale": "input_layernorm.weight",
    "attention.q.weight": "self_attn.q_proj.weight",
    "attention.k.weight": "self_attn.k_proj.weight",
    "attention.v.weight": "self_attn.v_proj.weight",
    "attention.out.weight": "self_attn.o_proj.weight",
    "pre_mlp_norm.scale": "post_attention_layernorm.weight",
    "mlp.gate.weight": "mlp.gate_proj.weight",
    "mlp.up.weight": "mlp.up_proj.weight",
    "mlp.down.weight": "mlp.down_proj.weight",
}
CONFIGS = {
    "GQA": tiny.LANGUAGE,
    "MQA": replace(tiny.LANGUAGE, num_kv_heads=1, rope_base=10000.0),
    "MHA": replace(tiny.LANGUAGE, num_kv_heads=4, norm_eps=1e-6),
    "wide heads": replace(tiny.LANGUAGE, num_heads=2, num_kv_heads=1, head_dim=40),
}
TOKENS = torch.randint(0, 48, (2, 11), generator=torch.Generator().manual_seed(7))


@pytest.fixture(autouse=True)
def quiet() -> None:
    transformers.logging.set_verbosity_error()


def their_model(model: Gemma) -> Any:
    config = model.config
    theirs = transformers.GemmaForCausalLM(
        transformers.GemmaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.width,
            intermediate_size=config.mlp_width,
            num_hidden_layers=config.depth,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            rms_norm_eps=config.norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_base},
            max_position_embeddings=config.context,
        )
    )
    ours = model.state_dict()
    state = {
        "model.embed_tokens.weight": ours["embedding.weight"],
        "lm_head.weight": ours["embedding.weight"],
        "model.norm.weight": ours["norm.scale"],
    }
    for index in range(config.depth):
        for name, their_name in PARTS.items():
            state[f"model.layers.{index}.{their_name}"] = ours[f"layers.{index}.{name}"]
    theirs.load_state_dict(state, strict=True)
    return theirs.eval()


def causal_logits(model: Gemma, tokens: Tensor) -> Tensor:
    batch, length = tokens.shape
    mask = prefix_lm(torch.zeros(batch, dtype=torch.int64), length)
    positions = torch.arange(length).expand(batch, length)
    return model.logits(model(model.embed(tokens), positions, mask))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
@torch.no_grad()
def test_causal_logits_equal_transformers(config: GemmaConfig) -> None:
    model = tiny.gemma(config)
    expected = their_model(model)(input_ids=TOKENS).logits
    assert tiny.relative_error(causal_logits(model, TOKENS), expected) < CLOSE


@torch.no_grad()
def test_with_a_cache_they_equal_transformers_too() -> None:
    """The prompt at once, then token by token, both sides with their own cache."""
    model = tiny.gemma()
    theirs = their_model(model)
    cache = KVCache(torch.ones(2, 6, dtype=torch.bool))
    mask = prefix_lm(torch.zeros(2, dtype=torch.int64), 6)
    model(model.embed(TOKENS[:, :6]), torch.arange(6).expand(2, 6), mask, cache)
    past = theirs(input_ids=TOKENS[:, :6], use_cache=True).past_key_values
    for place in range(6, 11):
        token = TOKENS[:, place : place + 1]
        positions = cache.begin_step()
        found = model.logits(model(model.embed(token), positions, cache.mask, cache))
        expected = theirs(input_ids=token, past_key_values=past, use_cache=True).logits
        assert tiny.relative_error(found, expected) < CLOSE


@torch.no_grad()
def test_left_padding_is_hidden_as_transformers_hides_it() -> None:
    model = tiny.gemma()
    valid = torch.ones(2, 11, dtype=torch.bool)
    valid[1, :4] = False
    positions = (valid.cumsum(-1) - 1).clamp_min(0)
    expected = their_model(model)(
        input_ids=TOKENS, attention_mask=valid.long(), position_ids=positions
    ).logits
    mask = prefix_lm(torch.zeros(2, dtype=torch.int64), 11) & valid[:, None, None, :]
    mask[1, 0, :4, 0] = True  # padding must look somewhere; nobody looks at it
    found = model.logits(model(model.embed(TOKENS), positions, mask))
    assert tiny.relative_error(found[valid], expected[valid]) < CLOSE


@torch.no_grad()
def test_every_tensor_matters_to_the_comparison() -> None:
    model = tiny.gemma()
    expected = their_model(model)(input_ids=TOKENS).logits
    for name, parameter in model.named_parameters():
        kept = parameter.clone()
        parameter.mul_(1.1)
        moved = tiny.relative_error(causal_logits(model, TOKENS), expected)
        assert moved > 100 * CLOSE, (name, moved)
        parameter.copy_(kept)
