"""What a pass costs in operations and bytes, and what share of the machine's limits it reaches.

T positions read at once, S positions looked at. A multiply-add counts as two operations, of
whatever width; a softmax, a norm or an activation counts as none.
"""

from __future__ import annotations

from torch import nn

from heliodor.models.gemma import GemmaConfig
from heliodor.models.siglip import SiglipVisionConfig

__all__ = ["decoder_operations", "resting_bytes", "step_bytes", "vision_operations"]


def decoder_operations(config: GemmaConfig, positions: int) -> int:
    """Of a prefill of T positions that returns the logits of the last one.

    The last layer is counted whole, although only its keys and values are needed of most positions.
    """
    heads = config.num_heads * config.head_dim
    kv = config.num_kv_heads * config.head_dim
    weights = config.width * (2 * heads + 2 * kv + 3 * config.mlp_width)
    looking = 2 * 2 * positions * positions * heads
    layers = config.depth * (2 * positions * weights + looking)
    return layers + 2 * config.width * config.vocab_size


def vision_operations(config: SiglipVisionConfig, width: int) -> int:
    """Of the image tower over one picture, and of the projector to ``width``."""
    tokens = config.num_tokens
    weights = 4 * config.width**2 + 2 * config.width * config.mlp_width
    looking = 2 * 2 * tokens * tokens * config.width
    blocks = config.depth * (2 * tokens * weights + looking)
    patches = 2 * tokens * 3 * config.patch_size**2 * config.width
    return blocks + patches + 2 * tokens * config.width * width


def resting_bytes(module: nn.Module) -> int:
    """Bytes of all parameters and buffers, tensors that share memory counted once."""
    found = {t.data_ptr(): t for t in (*module.parameters(), *module.buffers()) if t.numel()}
    return sum(tensor.numel() * tensor.element_size() for tensor in found.values())


def step_bytes(language: nn.Module, config: GemmaConfig, positions: int) -> int:
    """Bytes that one step of one row has to read: every weight once, and the cached S positions.

    The table counts once: as output head it is read whole, as embedding one row of it.
    """
    cached = 2 * config.depth * config.num_kv_heads * config.head_dim * positions * 4
    return resting_bytes(language) + cached
