"""The image tower and the pair against transformers' SigLIP, on the same random weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests import tiny
from torch import Tensor

from heliodor.models.pair import SiglipPair, SiglipTextConfig
from heliodor.models.siglip import SiglipVision, SiglipVisionConfig

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

CLOSE = 2e-6  # float32 roundings through a few layers
BLOCK = {
    "norm1": "layer_norm1",
    "attention.q": "self_attn.q_proj",
    "attention.k": "self_attn.k_proj",
    "attention.v": "self_attn.v_proj",
    "attention.out": "self_attn.out_proj",
    "norm2": "layer_norm2",
    "mlp.up": "mlp.fc1",
    "mlp.down": "mlp.fc2",
}


@pytest.fixture(autouse=True)
def quiet() -> None:
    transformers.logging.set_verbosity_error()


def vision_values(config: SiglipVisionConfig) -> dict[str, Any]:
    return {
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.mlp_width,
        "layer_norm_eps": config.norm_eps,
    }


def text_values(config: SiglipTextConfig) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.length,
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.mlp_width,
        "layer_norm_eps": config.norm_eps,
        "projection_size": config.width,
    }


def blocks(state: dict[str, Tensor], ours: str, theirs: str, depth: int) -> dict[str, Tensor]:
    """The encoder's tensors by their names in transformers."""
    return {
        f"{theirs}encoder.layers.{index}.{their_part}.{kind}": state[f"{ours}{index}.{part}.{kind}"]
        for index in range(depth)
        for part, their_part in BLOCK.items()
        for kind in ("weight", "bias")
    }


def tower_state(state: dict[str, Tensor], depth: int) -> dict[str, Tensor]:
    return blocks(state, "blocks.", "", depth) | {
        "embeddings.patch_embedding.weight": state["patch.weight"],
        "embeddings.patch_embedding.bias": state["patch.bias"],
        "embeddings.position_embedding.weight": state["position"],
        "post_layernorm.weight": state["norm.weight"],
        "post_layernorm.bias": state["norm.bias"],
    }


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


def part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}


def pair_state(model: SiglipPair) -> dict[str, Tensor]:
    state = model.state_dict()
    config = model.config
    pool = part(state, "pool.")
    text = part(state, "text.")
    head = {
        "probe": pool["probe"],
        "attention.in_proj_weight": torch.cat([pool[f"{n}.weight"] for n in "qkv"]),
        "attention.in_proj_bias": torch.cat([pool[f"{n}.bias"] for n in "qkv"]),
    }
    pairs = {
        "attention.out_proj": "out",
        "layernorm": "norm",
        "mlp.fc1": "mlp.up",
        "mlp.fc2": "mlp.down",
    }
    for theirs, ours in pairs.items():
        for kind in ("weight", "bias"):
            head[f"{theirs}.{kind}"] = pool[f"{ours}.{kind}"]
    their_text = blocks(text, "blocks.", "", config.text.depth) | {
        "embeddings.token_embedding.weight": text["embedding.weight"],
        "embeddings.position_embedding.weight": text["position"],
        "final_layer_norm.weight": text["norm.weight"],
        "final_layer_norm.bias": text["norm.bias"],
        "head.weight": text["head.weight"],
        "head.bias": text["head.bias"],
    }
    vision = tower_state(part(state, "vision."), config.vision.depth)
    return (
        prefixed(vision, "vision_model.")
        | prefixed(head, "vision_model.head.")
        | prefixed(their_text, "text_model.")
        | {"logit_scale": state["logit_scale"], "logit_bias": state["logit_bias"]}
    )


def fill(theirs: Any, state: dict[str, Tensor]) -> Any:
    """Load strictly, but for buffers of positions; the tower's own prefix may be gone."""
    wanted = {name: name.removeprefix("vision_model.") for name in theirs.state_dict()}
    if not any(name.startswith("text_model.") for name in wanted):
        state = {name: state[bare] for name, bare in wanted.items() if bare in state}
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected
    assert all("position_ids" in name for name in missing), missing
    return theirs.eval()


def their_tower(model: SiglipVision) -> Any:
    config = transformers.SiglipVisionConfig(**vision_values(model.config), vision_use_head=False)
    state = tower_state(model.state_dict(), model.config.depth)
    return fill(transformers.SiglipVisionModel(config), state)


def their_pair(model: SiglipPair) -> Any:
    config = transformers.SiglipConfig(
        vision_config=vision_values(model.config.vision), text_config=text_values(model.config.text)
    )
    return fill(transformers.SiglipModel(config), pair_state(model))


@pytest.mark.parametrize(
    "config",
    [
        tiny.VISION,
        replace(tiny.VISION, image_size=37, num_heads=2, depth=1),
        replace(tiny.VISION, patch_size=14, image_size=42, norm_eps=1e-3, width=32, num_heads=8),
    ],
    ids=["plain", "no multiple of the patch", "patch 14"],
)
@torch.no_grad()
def test_the_tower_equals_transformers(config: SiglipVisionConfig) -> None:
    model = tiny.siglip(config)
    pixels = tiny.pixels(3, config)
    expected = their_tower(model)(pixel_values=pixels).last_hidden_state
    assert tiny.relative_error(model(pixels), expected) < CLOSE


@torch.no_grad()
def test_every_tensor_of_the_tower_matters_to_the_comparison() -> None:
    model = tiny.siglip()
    pixels = tiny.pixels(2)
    expected = their_tower(model)(pixel_values=pixels).last_hidden_state
    for name, parameter in model.named_parameters():
        kept = parameter.clone()
        parameter.mul_(1.1)
        moved = tiny.relative_error(model(pixels), expected)
        # a bias on the keys adds the same to all scores of a query, which softmax ignores
        assert (moved > 100 * CLOSE) != name.endswith("attention.k.bias"), (name, moved)
        parameter.copy_(kept)


TEXTS = [
    tiny.TEXT,
    replace(tiny.TEXT, length=3, num_heads=2, depth=1, mlp_width=50, norm_eps=1e-3),
]


@pytest.mark.parametrize("text", TEXTS, ids=["plain", "short"])
@torch.no_grad()
def test_the_pair_equals_transformers(text: SiglipTextConfig) -> None:
    model = tiny.pair(text=text)
    pixels = tiny.pixels(3)
    tokens = torch.randint(0, 40, (4, text.length), generator=torch.Generator().manual_seed(2))
    theirs = their_pair(model)(pixel_values=pixels, input_ids=tokens)
    assert tiny.relative_error(model.embed_images(pixels), theirs.image_embeds) < CLOSE
    assert tiny.relative_error(model.embed_texts(tokens), theirs.text_embeds) < CLOSE
    assert tiny.relative_error(model(pixels, tokens), theirs.logits_per_image) < CLOSE


@torch.no_grad()
def test_every_tensor_of_the_pair_matters_to_the_comparison() -> None:
    model = tiny.pair()
    pixels = tiny.pixels(2)
    tokens = torch.randint(0, 40, (3, 7), generator=torch.Generator().manual_seed(2))
    expected = their_pair(model)(pixel_values=pixels, input_ids=tokens).logits_per_image
    for name, parameter in model.named_parameters():
        kept = parameter.clone()
        parameter.mul_(1.5)
        moved = tiny.relative_error(model(pixels, tokens), expected)
        assert (moved > 20 * CLOSE) != name.endswith(("k.bias", "pool.k.bias")), (name, moved)
        parameter.copy_(kept)
