"""Scaled dot-product attention, the one helper that both towers use.

B rows, T queries, S keys, N query heads, K key-value heads (N is a multiple of K), H head_dim.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from heliodor.nn.fused import fused

_SCORES = 2**25  # attention scores held at a time where a cap keeps torch's kernels from serving
_FEW = 8  # queries up to which two products are faster on a CPU than the fused kernel of torch


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """X [B T N*H] -> [B N T H]."""
    batch, length, width = x.shape
    return x.view(batch, length, num_heads, width // num_heads).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """X [B N T H] -> [B T N*H]."""
    batch, heads, length, head_dim = x.shape
    return x.transpose(1, 2).reshape(batch, length, heads * head_dim)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    *,
    scale: float | None = None,
    cap: float | None = None,
) -> Tensor:
    """softmax(s) v with scores s = scale q k^T, each query head n reading head n // (N/K).

    Args:
        q: [B N T H].
        k: [B K S H].
        v: [B K S H].
        mask: bool [B 1 T S] or [B 1 1 S], True where a query may look; None for everywhere.
        scale: factor on the scores, None for 1 / sqrt(H).
        cap: c of the soft cap ``c tanh(s / c)``, which comes before the mask (arXiv 2408.00118);
            None for no cap.

    Returns:
        [B N T H] in the dtype of q.
    """
    factor = 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale
    if torch.is_grad_enabled() and q.device.type == "cpu":
        return _attend_in_products(q, k, v, mask, factor, cap)
    if cap is not None:
        return _attend_in_pieces(q, k, v, mask, factor, cap)
    if q.device.type == "cpu" and _is_short(q):
        return _attend_in_products(q, k, v, mask, factor, cap)
    repeats = q.shape[1] // k.shape[1]
    if repeats > 1:
        k, v = _spread(k, repeats), _spread(v, repeats)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=factor)


def _is_short(q: Tensor) -> bool:
    """Whether q [B N T H] are a decode step: heads that share keys then read them once."""
    return q.shape[2] <= _FEW and q.dtype in (torch.float32, torch.float64)


def _attend_in_pieces(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, cap: float
) -> Tensor:
    """Some queries at a time, so that a long prompt's scores need not all exist at once."""
    length = q.shape[2]
    step = max(1, _SCORES // (q.shape[0] * q.shape[1] * k.shape[2]))
    if step >= length:
        return _attend_in_products(q, k, v, mask, scale, cap)
    pieces: list[Tensor] = []
    for start in range(0, length, step):
        rows = slice(start, start + step)
        seen = mask[:, :, rows] if mask is not None and mask.shape[2] > 1 else mask
        pieces.append(_attend_in_products(q[:, :, rows], k, v, seen, scale, cap))
    return torch.cat(pieces, dim=2)


def _attend_in_products(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, cap: float | None
) -> Tensor:
    """The same as two batched products: for caps, and on a CPU for training and decode steps.

    The query heads that share a key-value head become rows of one product. The backward pass of
    torch's fused CPU kernel takes about four times as long at the lengths trained here; at one
    query and 4,200 keys its forward pass takes 1.4 times as long.
    """
    batch, heads, length, head_dim = q.shape
    groups, slots = k.shape[1], k.shape[2]
    if cap is not None and q.dtype == torch.float16:  # sums of these products may leave its range
        q, k = q.float(), k.float()
    rows = q.reshape(batch * groups, -1, head_dim)
    scores = torch.bmm(rows, k.reshape(batch * groups, slots, head_dim).transpose(1, 2))
    scores = scores.view(batch, heads, length, slots)
    one_pass = fused(scores)
    if one_pass is not None and cap is None:
        weights = one_pass.softmax(scores, mask, scale).view(batch * groups, -1, slots)
        mixed = torch.bmm(weights, v.reshape(batch * groups, slots, head_dim))
        return mixed.view(batch, heads, length, head_dim)
    scores = scores * scale if cap is None else _capped(scores, scale, cap)
    if mask is not None:
        bias = torch.zeros(mask.shape, dtype=scores.dtype, device=scores.device)
        scores = scores + bias.masked_fill_(~mask, torch.finfo(scores.dtype).min)
    weights = scores.softmax(-1).to(v.dtype).view(batch * groups, -1, slots)
    mixed = torch.bmm(weights, v.reshape(batch * groups, slots, head_dim))
    return mixed.view(batch, heads, length, head_dim)


def _capped(scores: Tensor, scale: float, cap: float) -> Tensor:
    """``cap tanh(scale scores / cap)`` in float32."""
    return torch.tanh(scores.float() * (scale / cap)) * cap


def _spread(x: Tensor, repeats: int) -> Tensor:
    """X [B K S H] -> [B K*repeats S H]: every head repeated; one shared head is not copied."""
    batch, heads, length, head_dim = x.shape
    wide = x[:, :, None].expand(batch, heads, repeats, length, head_dim)
    return wide.reshape(batch, heads * repeats, length, head_dim)
