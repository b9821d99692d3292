"""A Gemma 2 decoder in numpy, one pass over one row. Source: arXiv 2408.00118, section 2."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from tests.reference.attention import attend
from tests.reference.norm import rms_norm
from tests.reference.rope import rotate

Floats = NDArray[np.float64]


def logits(
    tensors: Mapping[str, Floats],
    x: Floats,
    prefix: int,
    *,
    heads: tuple[int, int],
    eps: float,
    base: float,
    scale: float,
    caps: tuple[float, float],
    window: int,
) -> Floats:
    """Prefix-LM over embedded input.

    Args:
        tensors: by name, as ``Gemma.state_dict``.
        x: [T W].
        prefix: how many of the T see each other both ways, in all layers alike.
        heads: query heads, key-value heads.
        eps: of the norms.
        base: wave length base.
        scale: factor on scores.
        caps: on scores, on logits.
        window: how far other queries see in even layers, themselves counted.

    Returns:
        [T V].
    """
    length = len(x)
    depth = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("layers."))
    for layer in range(depth):
        part = {
            name.removeprefix(f"layers.{layer}."): value
            for name, value in tensors.items()
            if name.startswith(f"layers.{layer}.")
        }
        mask = np.zeros((1, 1, length, length), dtype=np.bool_)
        for query in range(length):
            for key in range(length):
                behind = query - key
                reached = 0 <= behind < window if layer % 2 == 0 else behind >= 0
                mask[0, 0, query, key] = reached or (query < prefix and key < prefix)
        h = rms_norm(x, part["pre_attention_norm.scale"], eps)
        h = attention(part, h, mask, heads, base, scale, caps[0])
        x = x + rms_norm(h, part["post_attention_norm.scale"], eps)
        h = rms_norm(x, part["pre_mlp_norm.scale"], eps)
        x = x + rms_norm(mlp(part, h), part["post_mlp_norm.scale"], eps)
    scores = rms_norm(x, tensors["norm.scale"], eps) @ tensors["embedding.weight"].T
    return caps[1] * np.tanh(scores / caps[1])


def attention(
    part: Mapping[str, Floats],
    h: Floats,
    mask: NDArray[np.bool_],
    heads: tuple[int, int],
    base: float,
    scale: float,
    cap: float,
) -> Floats:
    """The attention of a layer: h [T W] -> [T W]."""
    places = np.arange(len(h))[None]

    def split(name: str, count: int) -> Floats:
        out = h @ part[f"attention.{name}.weight"].T
        return out.reshape(len(h), count, -1).transpose(1, 0, 2)[None]

    q, k = rotate(split("q", heads[0]), places, base), rotate(split("k", heads[1]), places, base)
    out = attend(q, k, split("v", heads[1]), mask, scale=scale, cap=cap)[0]
    return out.transpose(1, 0, 2).reshape(len(h), -1) @ part["attention.out.weight"].T


def mlp(part: Mapping[str, Floats], h: Floats) -> Floats:
    """The MLP of a layer with the tanh form of GELU: h [T W] -> [T W]."""
    gate = h @ part["mlp.gate.weight"].T
    gelu = 0.5 * gate * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)))
    return (gelu * (h @ part["mlp.up.weight"].T)) @ part["mlp.down.weight"].T
