"""What the shapes of big_vision's arrays say of a PaliGemma, and what they cannot say.

Shapes give every width, depth and number of heads, the resolution (from the number of positions)
and the generation of the decoder (Gemma 2 has a norm behind attention). The rest is constant in
big_vision's code: the epsilon of norms, the base of the rotary positions, and Gemma 2's caps of 50
and 30. Its scale of queries is ``head_dim ** -0.5`` but in the 27B decoder, the one whose heads are
128 wide, where it is ``(width / heads) ** -0.5`` (``models/ppp/gemma.py``, ``get_config``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from heliodor.checkpoints.bigvision_layout import Shape, Stacking
from heliodor.checkpoints.bigvision_shapes import (
    Shapes,
    TowerShapes,
    infer_vision,
    single_layers,
)
from heliodor.errors import ConfigError, KeyMismatchError
from heliodor.models.gemma import GemmaConfig
from heliodor.models.paligemma import PaliGemmaConfig

_SCALED_BY_WIDTH = 128  # head_dim of Gemma 2 27B
_ATTENTION_CAP, _FINAL_CAP, _WINDOW = 50.0, 30.0, 4096
_NORM_EPS, _ROPE_BASE = 1e-6, 10000.0


def infer_stacking(shapes: Mapping[str, Shape]) -> Stacking:
    """Whether layers are stacked, from the names alone."""
    return Stacking(
        vision=not single_layers(shapes, "img/Transformer/encoderblock_"),
        language=not single_layers(shapes, "llm/layers/0/"),
    )


def infer_config(shapes: Mapping[str, Shape], stacking: Stacking, path: Path) -> PaliGemmaConfig:
    """The configuration that shapes imply.

    Rows of the embedding table are taken as they are, and there is no ``<image>`` among them:
    big_vision puts the picture before the text without a placeholder.

    Args:
        shapes: by their names, without ``params/``.
        stacking: of the file.
        path: the file, for messages.

    Raises:
        KeyMismatchError: an array that says it is not there or of another rank, or shapes that no
            PaliGemma has.
    """
    seen = Shapes(found=shapes, path=path, family="PaliGemma")
    try:
        return PaliGemmaConfig(
            vision=infer_vision(seen, stacked=stacking.vision),
            language=_language(seen, stacked=stacking.language),
            image_token=None,
        )
    except ConfigError as error:
        raise KeyMismatchError(f"{path}: {error}") from error


def _language(shapes: Shapes, *, stacked: bool) -> GemmaConfig:
    tower = TowerShapes(shapes=shapes, base="llm/layers", mark="/", stacked=stacked)
    vocab_size, width = shapes.of("llm/embedder/input_embedding", 2)
    if tower.has("attn/qkv_einsum/w"):
        _, num_heads, _, head_dim = tower.of("attn/qkv_einsum/w", 4)
        num_kv_heads = num_heads
    else:
        num_heads, _, head_dim = tower.of("attn/q_einsum/w", 3)
        num_kv_heads = tower.of("attn/kv_einsum/w", 4)[1]
    config = GemmaConfig(
        vocab_size=vocab_size,
        width=width,
        depth=tower.depth("pre_attention_norm/scale", 1),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        mlp_width=tower.of("mlp/linear", 2)[0],
        sandwich=tower.has("post_attention_norm/scale"),
    )
    return implied(config) if config.sandwich else config


def implied(config: GemmaConfig) -> GemmaConfig:
    """A decoder with the numbers that big_vision's code has for one of its shape.

    The window is Gemma 2's own; big_vision leaves it out, which changes results only where more
    than 4096 positions are read.
    """
    constants = replace(
        config,
        norm_eps=_NORM_EPS,
        rope_base=_ROPE_BASE,
        query_scale=None,
        attention_cap=None,
        final_cap=None,
        window=None,
    )
    if not config.sandwich:
        return constants
    by_width = config.head_dim == _SCALED_BY_WIDTH
    channels = config.width // config.num_heads if by_width else config.head_dim
    return replace(
        constants,
        query_scale=channels**-0.5,
        attention_cap=_ATTENTION_CAP,
        final_cap=_FINAL_CAP,
        window=_WINDOW,
    )


def check_expressible(config: PaliGemmaConfig, path: Path) -> None:
    """Refuse to write what would be read back as another model.

    Not in the file, and no reason to refuse: ``context``, ``final_cap`` (which big_vision's own
    configurations switch on and off) and a ``window`` that is left out (as big_vision does).

    Raises:
        ConfigError: a number that big_vision takes for granted and this model has otherwise.
    """
    language, expected = config.language, implied(config.language)
    pairs: dict[str, tuple[float | None, float | None]] = {
        "vision.norm_eps": (config.vision.norm_eps, _NORM_EPS),
        "language.norm_eps": (language.norm_eps, expected.norm_eps),
        "language.rope_base": (language.rope_base, expected.rope_base),
        "language.query_scale": (_scale(language), _scale(expected)),
        "language.attention_cap": (language.attention_cap, expected.attention_cap),
    }
    if language.final_cap is not None:
        pairs["language.final_cap"] = (language.final_cap, expected.final_cap)
    if language.window is not None:
        pairs["language.window"] = (language.window, expected.window)
    size, patch = config.vision.image_size, config.vision.patch_size
    pairs["vision.image_size"] = (size, size - size % patch)
    for name, (value, granted) in pairs.items():
        if value != granted and not _close(value, granted):
            raise ConfigError(
                f"{path} cannot hold this model: its {name} is {value}, and a big_vision file, "
                f"which does not state it, means {granted}. Save as 'transformers' or 'native'"
            )


def _scale(config: GemmaConfig) -> float:
    return config.head_dim**-0.5 if config.query_scale is None else config.query_scale


def _close(value: float | None, other: float | None) -> bool:
    return value is not None and other is not None and math.isclose(value, other, rel_tol=1e-9)
