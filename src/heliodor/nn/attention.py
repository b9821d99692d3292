"""Scaled dot-product attention, the one helper that both towers use.

B rows, T queries, S keys, N query heads, K key-value heads (N is a multiple of K), H head_dim.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """X [B T N*H] -> [B N T H]."""
    batch, length, width = x.shape
    return x.view(batch, length, num_heads, width // num_heads).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """X [B N T H] -> [B T N*H]."""
    batch, heads, length, head_dim = x.shape
    return x.transpose(1, 2).reshape(batch, length, heads * head_dim)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(H)) v, each query head n reading key-value head n // (N/K).

    Args:
        q: [B N T H].
        k: [B K S H].
        v: [B K S H].
        mask: bool [B 1 T S] or [B 1 1 S], True where a query may look; None for everywhere.

    Returns:
        [B N T H] in the dtype of q.
    """
    repeats = q.shape[1] // k.shape[1]
    if repeats > 1:
        k, v = _spread(k, repeats), _spread(v, repeats)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def _spread(x: Tensor, repeats: int) -> Tensor:
    """X [B K S H] -> [B K*repeats S H]: every head repeated; one shared head is not copied."""
    batch, heads, length, head_dim = x.shape
    wide = x[:, :, None].expand(batch, heads, repeats, length, head_dim)
    return wide.reshape(batch, heads * repeats, length, head_dim)
