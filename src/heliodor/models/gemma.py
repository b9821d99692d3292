"""The Gemma 1 decoder.

B rows, T new positions, S positions to look at, W width, N query heads, K key-value heads,
H head_dim, F mlp_width, V rows of the embedding table.
Source: arXiv 2403.08295; big_vision ``models/ppp/gemma.py``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heliodor.errors import ConfigError
from heliodor.nn.attention import attend, merge_heads, split_heads
from heliodor.nn.cache import KVCache
from heliodor.nn.linear import Linear, arithmetic, wide_linear
from heliodor.nn.norm import RMSNorm
from heliodor.nn.rope import rotate, rotations


@dataclass(frozen=True, kw_only=True, slots=True)
class GemmaConfig:
    """Shape of a decoder; the defaults are those of Gemma 2B as PaliGemma 1 holds it."""

    vocab_size: int = 257216
    width: int = 2048
    depth: int = 18
    num_heads: int = 8
    num_kv_heads: int = 1
    head_dim: int = 256
    mlp_width: int = 16384
    norm_eps: float = 1e-6
    rope_base: float = 10000.0
    context: int = 8192

    def __post_init__(self) -> None:
        """Refuse shapes that no decoder can have."""
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(
                f"{self.num_heads} query heads do not divide among {self.num_kv_heads} "
                "key-value heads"
            )
        if self.head_dim % 2:
            raise ConfigError(f"head_dim {self.head_dim} is odd: rotary embedding pairs channels")


class GemmaAttention(nn.Module):
    """Grouped-query attention with rotary positions; no biases."""

    def __init__(self, config: GemmaConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.num_kv_heads = config.num_kv_heads
        self.q = Linear(config.width, config.num_heads * config.head_dim, bias=False)
        self.k = Linear(config.width, config.num_kv_heads * config.head_dim, bias=False)
        self.v = Linear(config.width, config.num_kv_heads * config.head_dim, bias=False)
        self.out = Linear(config.num_heads * config.head_dim, config.width, bias=False)

    def keys_values(self, x: Tensor, turn: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """X [B T W] -> rotated keys and values, [B K T H] each."""
        k = rotate(split_heads(self.k(x), self.num_kv_heads), *turn)
        return k, split_heads(self.v(x), self.num_kv_heads)

    def forward(
        self,
        x: Tensor,
        k: Tensor,
        v: Tensor,
        turn: tuple[Tensor, Tensor],
        mask: Tensor | None,
    ) -> Tensor:
        """Queries from x [B T W] over k, v [B K S H] -> [B T W]."""
        q = rotate(split_heads(self.q(x), self.num_heads), *turn)
        return self.out(merge_heads(attend(q, k, v, mask)))


class GemmaMLP(nn.Module):
    """``down(gelu(gate(x)) * up(x))`` with the tanh form of GELU."""

    def __init__(self, config: GemmaConfig) -> None:
        super().__init__()
        self.gate = Linear(config.width, config.mlp_width, bias=False)
        self.up = Linear(config.width, config.mlp_width, bias=False)
        self.down = Linear(config.mlp_width, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """X [B T W] -> [B T W]."""
        gate, up = self.gate(x), self.up(x)
        if gate.dtype == torch.float16:
            gate, up = gate.float(), up.float()
        return wide_linear(self.down, F.gelu(gate, approximate="tanh") * up)


class GemmaLayer(nn.Module):
    """Pre-norm decoder layer; the residual stream stays in float32."""

    def __init__(self, config: GemmaConfig) -> None:
        super().__init__()
        self.pre_attention_norm = RMSNorm(config.width, config.norm_eps)
        self.attention = GemmaAttention(config)
        self.pre_mlp_norm = RMSNorm(config.width, config.norm_eps)
        self.mlp = GemmaMLP(config)

    def forward(
        self,
        x: Tensor,
        turn: tuple[Tensor, Tensor],
        mask: Tensor | None,
        cache: tuple[KVCache, int] | None,
        keep: int,
    ) -> Tensor:
        """X float32 [B T W] -> float32 [B keep W]: all are read, the last ``keep`` go on."""
        h = self.pre_attention_norm(x)
        k, v = self.attention.keys_values(h, turn)
        if cache is not None:
            k, v = cache[0].append(cache[1], k, v)
        if keep < x.shape[1]:
            x, h = x[:, -keep:], h[:, -keep:]
            turn = (turn[0][:, :, -keep:], turn[1][:, :, -keep:])
            mask = mask[:, :, -keep:] if mask is not None and mask.shape[2] > 1 else mask
        x = x + self.attention(h, k, v, turn, mask)
        return x + self.mlp(self.pre_mlp_norm(x))


class Gemma(nn.Module):
    """Embedding table, layers, final norm; the table serves as output head too."""

    def __init__(self, config: GemmaConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.layers = nn.ModuleList(GemmaLayer(config) for _ in range(config.depth))
        self.norm = RMSNorm(config.width, config.norm_eps)

    def embed(self, tokens: Tensor) -> Tensor:
        """Rows of the table times sqrt(W): tokens int64 [B T] -> float32 [B T W]."""
        return self.embedding(tokens).float() * math.sqrt(self.config.width)

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        cache: KVCache | None = None,
        keep: int | None = None,
    ) -> Tensor:
        """Run the layers.

        Args:
            x: float32 [B T W], embedded input.
            positions: int64 [B T], counted from 0.
            mask: bool [B 1 T S] or [B 1 1 S], None for everywhere; S counts cached slots too.
            cache: keys and values of earlier positions; the new ones are appended.
            keep: how many of the last positions to return, all by default. The last layer does no
                work for the others.

        Returns:
            float32 [B keep W], after the final norm.
        """
        turn = rotations(positions, self.config.head_dim, self.config.rope_base)
        length = x.shape[1]
        for index, layer in enumerate(self.layers):
            last = index == len(self.layers) - 1
            slot = None if cache is None else (cache, index)
            x = layer(x, turn, mask, slot, keep if last and keep is not None else length)
        if cache is not None:
            cache.advance(length)
        return self.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of every row of the unscaled table: hidden [... W] -> float32 [... V]."""
        weight = self.embedding.weight
        dtype = arithmetic(weight.dtype, weight.device)
        return F.linear(hidden.to(dtype), weight.to(dtype)).float()
