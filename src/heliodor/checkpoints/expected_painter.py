"""The shape of each tensor that a Next-DiT must have. No torch is loaded; tests compare it.

W width, S caption_width, E condition_width, F mlp_width, N narrow, of all key-value heads.
"""

from __future__ import annotations

from collections.abc import Iterator

from heliodor.models.nextdit_config import NextDiTConfig

Shape = tuple[int, ...]

_TIME = 256  # cosines and sines that a time becomes


def nextdit_shapes(config: NextDiTConfig) -> dict[str, Shape]:
    """Shapes by our names."""
    return dict(_shapes(config))


def _shapes(config: NextDiTConfig) -> Iterator[tuple[str, Shape]]:
    width, condition = config.width, config.condition_width
    patch = config.patch_size**2
    yield "pad_token", (width,)
    yield from _both("patch", (width, patch * config.in_channels))
    yield from _both("time.first", (condition, _TIME))
    yield from _both("time.second", (condition, condition))
    yield from _both("caption.norm", (config.caption_width,))
    yield from _both("caption.out", (condition, config.caption_width))
    for layer in range(config.depth):
        yield from _layer(f"layers.{layer}", config)
    yield from _both("last.modulation", (width, condition))
    yield from _both("last.out", (patch * config.out_channels, width))


def _layer(name: str, config: NextDiTConfig) -> Iterator[tuple[str, Shape]]:
    width = config.width
    yield from _both(f"{name}.modulation", (4 * width, config.condition_width))
    for place in ("pre_attention", "post_attention", "pre_mlp", "post_mlp"):
        yield f"{name}.{place}_norm.weight", (width,)
    yield f"{name}.caption_norm.weight", (config.caption_width,)
    yield from _attention(f"{name}.attention", config)
    yield f"{name}.mlp.gate.weight", (config.mlp_width, width)
    yield f"{name}.mlp.up.weight", (config.mlp_width, width)
    yield f"{name}.mlp.down.weight", (width, config.mlp_width)


def _attention(name: str, config: NextDiTConfig) -> Iterator[tuple[str, Shape]]:
    width, narrow = config.width, config.num_kv_heads * config.head_dim
    yield f"{name}.gate", (config.num_heads,)
    for part in ("q", "out"):
        yield f"{name}.{part}.weight", (width, width)
    for part in ("k", "v"):
        yield f"{name}.{part}.weight", (narrow, width)
        yield f"{name}.caption_{part}.weight", (narrow, config.caption_width)
    if config.qk_norm:
        yield from _both(f"{name}.q_norm", (width,))
        yield from _both(f"{name}.k_norm", (narrow,))
        yield from _both(f"{name}.caption_k_norm", (narrow,))


def _both(name: str, shape: Shape) -> Iterator[tuple[str, Shape]]:
    """A weight and its bias."""
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]
