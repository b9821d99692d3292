"""The Gemma decoders, first and second generation.

B rows, T new positions, S positions to look at, W width, N query heads, K key-value heads,
H head_dim, F mlp_width, V rows of the embedding table.

Gemma 2 adds to Gemma 1 a norm behind attention and one behind the MLP, soft caps on attention
scores and on logits, a scale of queries of its own, and a window that ends how far back every
other layer looks. Source: arXiv 2403.08295 and 2408.00118; big_vision ``models/ppp/gemma.py``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from heliodor.errors import ConfigError
from heliodor.nn.attention import attend, merge_heads, split_heads
from heliodor.nn.cache import KVCache
from heliodor.nn.linear import Linear, Rows, gated, project, scores
from heliodor.nn.mask import Masks, near
from heliodor.nn.norm import RMSNorm
from heliodor.nn.rope import rotate, rotations


@dataclass(frozen=True, kw_only=True, slots=True)
class GemmaConfig:
    """Shape of a decoder; the defaults are those of Gemma 2B as PaliGemma 1 holds it.

    Attributes:
        vocab_size: rows of the embedding table.
        width: channels of the residual stream.
        depth: layers.
        num_heads: query heads; their width in all need not be ``width``.
        num_kv_heads: key-value heads, a divisor of ``num_heads``.
        head_dim: channels of a head.
        mlp_width: channels between the MLP's projections.
        norm_eps: added to the mean square in norms.
        rope_base: wave length base of the rotary positions.
        context: positions that the model was trained for.
        sandwich: whether norms stand behind attention and MLP too, as in Gemma 2.
        query_scale: factor on attention scores; None for ``head_dim ** -0.5``.
        attention_cap: c of ``c tanh(score / c)`` on attention scores; None for no cap.
        final_cap: the same on logits. It changes probabilities, never their order.
        window: positions, its own included, that a query sees in layers 0, 2, 4, ...; None for all.
    """

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
    sandwich: bool = False
    query_scale: float | None = None
    attention_cap: float | None = None
    final_cap: float | None = None
    window: int | None = None

    @property
    def is_gemma2(self) -> bool:
        """Whether the tensors are those of Gemma 2."""
        return self.sandwich

    def is_local(self, layer: int) -> bool:
        """Whether a layer looks no further back than the window."""
        return self.window is not None and layer % 2 == 0

    def __post_init__(self) -> None:
        """Refuse shapes that no decoder can have."""
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(
                f"{self.num_heads} query heads do not divide among {self.num_kv_heads} "
                "key-value heads"
            )
        if self.head_dim % 2:
            raise ConfigError(f"head_dim {self.head_dim} is odd: rotary embedding pairs channels")
        for name in ("query_scale", "attention_cap", "final_cap", "window"):
            value: float | None = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} is {value}; expected a number above 0, or None")


class GemmaAttention(nn.Module):
    """Grouped-query attention with rotary positions; no biases.

    The query heads together may be wider or narrower than the model: ``out`` need not be square.
    """

    def __init__(self, config: GemmaConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.num_kv_heads = config.num_kv_heads
        self.scale = config.query_scale
        self.cap = config.attention_cap
        self.q = Linear(config.width, config.num_heads * config.head_dim, bias=False)
        self.k = Linear(config.width, config.num_kv_heads * config.head_dim, bias=False)
        self.v = Linear(config.width, config.num_kv_heads * config.head_dim, bias=False)
        self.out = Linear(config.num_heads * config.head_dim, config.width, bias=False)

    def forward(
        self,
        x: Tensor,
        turn: tuple[Tensor, Tensor],
        mask: Tensor | None,
        cache: tuple[KVCache, int] | None,
        keep: int,
    ) -> Tensor:
        """X [B T W] -> [B keep W]: all give keys and values, the last ``keep`` ask."""
        length = x.shape[1]
        if keep == length:
            q, k, v = project(x, (self.q, self.k, self.v))
        else:
            k, v = project(x, (self.k, self.v))
            (q,) = project(x[:, -keep:], (self.q,))
        k = rotate(split_heads(k, self.num_kv_heads), *turn)
        v = split_heads(v, self.num_kv_heads)
        if cache is not None:
            k, v = cache[0].append(cache[1], k, v)
        if keep < length:
            turn = (turn[0][:, :, -keep:], turn[1][:, :, -keep:])
            mask = mask[:, :, -keep:] if mask is not None and mask.shape[2] > 1 else mask
        q = rotate(split_heads(q, self.num_heads), *turn)
        return self.out(merge_heads(attend(q, k, v, mask, scale=self.scale, cap=self.cap)))


class GemmaMLP(nn.Module):
    """``down(gelu(gate(x)) * up(x))`` with the tanh form of GELU."""

    def __init__(self, config: GemmaConfig) -> None:
        super().__init__()
        self.gate = Linear(config.width, config.mlp_width, bias=False)
        self.up = Linear(config.width, config.mlp_width, bias=False)
        self.down = Linear(config.mlp_width, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """X [B T W] -> [B T W]."""
        return gated(x, self.gate, self.up, self.down)


class GemmaLayer(nn.Module):
    """Decoder layer; the residual stream stays in float32.

    Norms stand before attention and MLP, and in Gemma 2 behind them as well.
    """

    def __init__(self, config: GemmaConfig) -> None:
        super().__init__()
        self.pre_attention_norm = RMSNorm(config.width, config.norm_eps)
        self.attention = GemmaAttention(config)
        self.post_attention_norm = _behind(config)
        self.pre_mlp_norm = RMSNorm(config.width, config.norm_eps)
        self.mlp = GemmaMLP(config)
        self.post_mlp_norm = _behind(config)

    def forward(
        self,
        x: Tensor,
        turn: tuple[Tensor, Tensor],
        mask: Tensor | None,
        cache: tuple[KVCache, int] | None,
        keep: int,
    ) -> Tensor:
        """X float32 [B T W] -> float32 [B keep W]: all are read, the last ``keep`` go on."""
        read = self.attention(self.pre_attention_norm(x), turn, mask, cache, keep)
        x = x if keep == x.shape[1] else x[:, -keep:]
        x = x + self.post_attention_norm(read)
        return x + self.post_mlp_norm(self.mlp(self.pre_mlp_norm(x)))


def _behind(config: GemmaConfig) -> nn.Module:
    """The norm behind a part of a layer; Gemma 1 has none."""
    return RMSNorm(config.width, config.norm_eps) if config.sandwich else nn.Identity()


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
        mask: Tensor | Masks | None,
        cache: KVCache | None = None,
        keep: int | None = None,
        depth: int | None = None,
    ) -> Tensor:
        """Run the layers.

        Args:
            x: float32 [B T W], embedded input.
            positions: int64 [B T], counted from 0.
            mask: bool [B 1 T S] or [B 1 1 S], None for everywhere; S counts cached slots too. In
                the layers with a window, what lies further back than that is hidden besides; to
                exempt a prefix from it, give both masks as :class:`~heliodor.nn.mask.Masks`.
            cache: keys and values of earlier positions; the new ones are appended.
            keep: how many of the last positions to return, all by default. The last layer does no
                work for the others.
            depth: how many layers to run, from 0; None for all of them and the final norm, which
                fewer do not get.

        Returns:
            float32 [B keep W].
        """
        turn = rotations(positions, self.config.head_dim, self.config.rope_base)
        length = x.shape[1]
        masks = mask if isinstance(mask, Masks) else self._masks(mask, positions, cache)
        count = len(self.layers) if depth is None else depth
        for index, layer in enumerate(islice(self.layers, count)):
            last = index == count - 1
            slot = None if cache is None else (cache, index)
            sight = masks.local if self.config.is_local(index) else masks.full
            x = layer(x, turn, sight, slot, keep if last and keep is not None else length)
        if cache is not None:
            cache.advance(length)
        return self.norm(x) if depth is None else x

    def _masks(self, mask: Tensor | None, positions: Tensor, cache: KVCache | None) -> Masks:
        """The same mask for both kinds of layers, with the window over it where it cuts."""
        keys = positions if cache is None else cache.places
        window = self.config.window
        if window is None or keys.shape[1] <= window:
            return Masks(full=mask, local=mask)
        nearby = near(positions, keys, window)
        return Masks(full=mask, local=nearby if mask is None else mask & nearby)

    def logits(self, hidden: Tensor, rows: Rows = None) -> Tensor:
        """Scores of rows of the unscaled table.

        Where the configuration has a ``final_cap`` all of them are capped, at every position, as in
        transformers. big_vision caps the second and later generated tokens alone.

        Args:
            hidden: [... W].
            rows: a range (first, end) or ids int64 [R]; None for the whole table. No other row is
                multiplied.

        Returns:
            float32 [... V], or [... R] in the order of ``rows``.
        """
        found = scores(hidden, self.embedding, rows)
        cap = self.config.final_cap
        return found if cap is None else torch.tanh(found / cap) * cap
