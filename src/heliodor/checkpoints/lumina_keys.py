"""Tensor names of Next-DiT: ours, the official ones, and those of diffusers.

The two layouts differ in names alone, and in that diffusers holds the query projection and its norm
twice: once in ``attn1``, which reads the picture, and once in ``attn2``, which reads the caption.
"""

from __future__ import annotations

from heliodor.checkpoints.keymap import KeyMap, Row

_QUERY = "layers.#.attention.q.weight"
_QUERY_NORM = "layers.#.attention.q_norm.*"

_TABLE = (
    ("pad_token", "pad_token", "pad_token"),
    ("patch.*", "x_embedder.*", "patch_embedder.proj.*"),
    ("time.first.*", "t_embedder.mlp.0.*", "time_caption_embed.timestep_embedder.linear_1.*"),
    ("time.second.*", "t_embedder.mlp.2.*", "time_caption_embed.timestep_embedder.linear_2.*"),
    ("caption.norm.*", "cap_embedder.0.*", "time_caption_embed.caption_embedder.0.*"),
    ("caption.out.*", "cap_embedder.1.*", "time_caption_embed.caption_embedder.1.*"),
    ("last.modulation.*", "final_layer.adaLN_modulation.1.*", "norm_out.linear_1.*"),
    ("last.out.*", "final_layer.linear.*", "norm_out.linear_2.*"),
)
_LAYER_TABLE = (
    ("attention.k.weight", "attention.wk.weight", "attn1.to_k.weight"),
    ("attention.v.weight", "attention.wv.weight", "attn1.to_v.weight"),
    ("attention.caption_k.weight", "attention.wk_y.weight", "attn2.to_k.weight"),
    ("attention.caption_v.weight", "attention.wv_y.weight", "attn2.to_v.weight"),
    ("attention.out.weight", "attention.wo.weight", "attn2.to_out.0.weight"),
    ("attention.gate", "attention.gate", "gate"),
    ("attention.k_norm.*", "attention.k_norm.*", "attn1.norm_k.*"),
    ("attention.caption_k_norm.*", "attention.ky_norm.*", "attn2.norm_k.*"),
    ("mlp.gate.weight", "feed_forward.w1.weight", "feed_forward.linear_1.weight"),
    ("mlp.down.weight", "feed_forward.w2.weight", "feed_forward.linear_2.weight"),
    ("mlp.up.weight", "feed_forward.w3.weight", "feed_forward.linear_3.weight"),
    ("modulation.*", "adaLN_modulation.1.*", "norm1.linear.*"),
    ("pre_attention_norm.weight", "attention_norm1.weight", "norm1.norm.weight"),
    ("post_attention_norm.weight", "attention_norm2.weight", "norm2.weight"),
    ("pre_mlp_norm.weight", "ffn_norm1.weight", "ffn_norm1.weight"),
    ("post_mlp_norm.weight", "ffn_norm2.weight", "ffn_norm2.weight"),
    ("caption_norm.weight", "attention_y_norm.weight", "norm1_context.weight"),
)
_SELF = (Row(_QUERY, "layers.#.attn1.to_q.weight"), Row(_QUERY_NORM, "layers.#.attn1.norm_q.*"))
_CAPTION = (Row(_QUERY, "layers.#.attn2.to_q.weight"), Row(_QUERY_NORM, "layers.#.attn2.norm_q.*"))


def _rows(column: int) -> tuple[Row, ...]:
    plain = [Row(names[0], names[column]) for names in _TABLE]
    layered = [Row(f"layers.#.{n[0]}", f"layers.#.{n[column]}") for n in _LAYER_TABLE]
    return (*plain, *layered)


OFFICIAL = KeyMap(
    rows=(
        *_rows(1),
        Row(_QUERY, "layers.#.attention.wq.weight"),
        Row(_QUERY_NORM, "layers.#.attention.q_norm.*"),
    ),
    tied=(),
    prefixes={},
)
"""Lumina-T2X's names in ``consolidated.00-of-01.safetensors``."""

DIFFUSERS_SELF = KeyMap(rows=(*_rows(2), *_SELF), tied=_CAPTION, prefixes={})
"""diffusers' ``LuminaNextDiT2DModel``; the queries of ``attn1`` count, ``attn2`` repeats them."""

DIFFUSERS_CAPTION = KeyMap(rows=(*_rows(2), *_CAPTION), tied=_SELF, prefixes={})
"""The same, but the queries of ``attn2`` count."""
