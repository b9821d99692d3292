"""``config.json`` in transformers layout <-> our configuration.

Reading is strict where a wrong guess would give a wrong model. transformers fills a missing field
with the default of whichever class reads it, and some of those defaults belong to other models
(``PaliGemmaConfig`` says 4096 for the image tower's MLP, the published towers have 4304); here only
the fields that published files do leave out have defaults:

    vision_config.image_size 224    text_config.head_dim 256    norm epsilons 1e-6
    text_config.rope_theta 10000    text_config.max_position_embeddings 8192

and in Gemma 2, whose files leave out what the class of that time had for a default,

    text_config.num_attention_heads 8    query_pre_attn_scalar 256    sliding_window 4096
    attn_logit_softcapping 50            final_logit_softcapping 30

where null means none. The ``hidden_size`` beside ``text_config`` is not read: in PaliGemma 2 it
is left over from PaliGemma 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from heliodor.checkpoints.files import read_json
from heliodor.checkpoints.section import CONFIG, Section
from heliodor.errors import ConfigError
from heliodor.models.gemma import GemmaConfig
from heliodor.models.paligemma import PaliGemmaConfig
from heliodor.models.siglip import SiglipVisionConfig

Special = Mapping[str, int | list[int]]
"""``bos_token_id``, ``eos_token_id`` and ``pad_token_id``; some models have several ends."""

_TANH_GELU = ("gelu_pytorch_tanh", "gelu")  # Gemma files say "gelu" and mean the tanh form
_MOST = 2**24  # no size in a configuration is anywhere near it


def read_config(folder: str | Path) -> PaliGemmaConfig:
    """The configuration of a folder in transformers layout.

    Raises:
        ConfigError: no ``config.json``, another model family, a field that is missing, out of
            range, or contradicts another.
        FileFormatError: ``config.json`` is not JSON.
    """
    path = Path(folder) / CONFIG
    top = Section(read_json(path), f"{path}: ")
    _check_family(top)
    vision = _read_vision(top.section("vision_config"))
    language = read_language(top.section("text_config"))
    _check_widths(top, vision, language)
    return PaliGemmaConfig(vision=vision, language=language, image_token=_image_token(top))


def _check_family(top: Section) -> None:
    family: Any = top.values.get("model_type")
    if family != "paligemma":
        raise top.wrong("model_type", "'paligemma': other families cannot be loaded here")
    text = top.section("text_config")
    text.require("use_bidirectional_attention", [True], "the prompt is read in both directions")
    top.section("vision_config").require(
        "model_type", ["siglip_vision_model"], "the image tower of PaliGemma"
    )
    if top.values.get("quantization_config") is not None:
        raise top.wrong("quantization_config", "none: load the unquantised checkpoint")


def _read_vision(section: Section) -> SiglipVisionConfig:
    section.require("num_channels", [3], "pictures are RGB")
    section.require("hidden_act", ["gelu_pytorch_tanh"], "SigLIP's activation")
    mlp_width = section.values.get("intermediate_size")
    if mlp_width is None:
        raise section.wrong(
            "intermediate_size", "a number; published towers have 4304, no default is safe"
        )
    image_size = section.count("image_size", 224, most=16384)
    patch_size = section.count("patch_size", most=16384)
    num_heads = section.count("num_attention_heads")
    width = section.count("hidden_size")
    if image_size < patch_size:
        raise section.wrong("image_size", f"at least patch_size, {patch_size}")
    if width % num_heads:
        raise section.wrong("num_attention_heads", f"a divisor of hidden_size, {width}")
    return SiglipVisionConfig(
        image_size=image_size,
        patch_size=patch_size,
        width=width,
        depth=section.count("num_hidden_layers", most=1024),
        num_heads=num_heads,
        mlp_width=section.count("intermediate_size"),
        norm_eps=section.number("layer_norm_eps", 1e-6),
    )


def read_language(section: Section) -> GemmaConfig:
    """A decoder of either generation, from ``text_config`` or from the whole file of a Gemma.

    Raises:
        ConfigError: another family, or a field that is missing, out of range or contradicts others.
    """
    section.require("model_type", ["gemma", "gemma2"], "the decoders that PaliGemma has")
    section.require("hidden_act", _TANH_GELU, "Gemma's activation")
    section.require("hidden_activation", _TANH_GELU, "Gemma's activation")
    section.require("attention_bias", [False], "Gemma's projections have no biases")
    second = section.values.get("model_type") == "gemma2"
    num_heads = section.count("num_attention_heads", 8 if second else None)
    num_kv_heads = section.count("num_key_value_heads")
    if num_heads % num_kv_heads:
        raise section.wrong("num_key_value_heads", f"a divisor of num_attention_heads, {num_heads}")
    head_dim = section.count("head_dim", 256)
    if head_dim % 2:
        raise section.wrong("head_dim", "an even number")
    config = GemmaConfig(
        vocab_size=section.count("vocab_size"),
        width=section.count("hidden_size"),
        depth=section.count("num_hidden_layers", most=1024),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        mlp_width=section.count("intermediate_size"),
        norm_eps=section.number("rms_norm_eps", 1e-6),
        rope_base=_rope_base(section),
        context=section.count("max_position_embeddings", 8192),
    )
    return _second(section, config) if second else config


def _second(section: Section, config: GemmaConfig) -> GemmaConfig:
    """What Gemma 2 has beside Gemma 1's fields."""
    return replace(
        config,
        sandwich=True,
        query_scale=section.number("query_pre_attn_scalar", 256.0) ** -0.5,
        attention_cap=section.optional("attn_logit_softcapping", 50.0),
        final_cap=section.optional("final_logit_softcapping", 30.0),
        window=_window(section, config.depth),
    )


def _window(section: Section, depth: int) -> int | None:
    """``sliding_window``, where ``layer_types`` of transformers 5 says that layers have it."""
    kinds: Any = section.values.get("layer_types")
    usual = [("full" if layer % 2 else "sliding") + "_attention" for layer in range(depth)]
    if kinds == ["full_attention"] * depth:
        return None
    if kinds not in (None, usual):
        raise section.wrong("layer_types", "sliding_attention and full_attention by turns")
    if "sliding_window" in section.values and section.values["sliding_window"] is None:
        return None
    return section.count("sliding_window", 4096)


def _rope_base(section: Section) -> float:
    """``rope_parameters.rope_theta`` of transformers 5 or ``rope_theta`` before it."""
    if section.values.get("rope_scaling") is not None:
        raise section.wrong("rope_scaling", "none: Gemma's positions are not scaled")
    if section.values.get("rope_parameters") is None:
        return section.number("rope_theta", 10000.0)
    rope = section.section("rope_parameters")
    rope.require("rope_type", ["default"], "Gemma's positions are not scaled")
    return rope.number("rope_theta", section.number("rope_theta", 10000.0))


def _check_widths(top: Section, vision: SiglipVisionConfig, language: GemmaConfig) -> None:
    """Fields that repeat what others say must agree with them."""
    width = language.width
    for section in (top, top.section("vision_config")):
        section.require("projection_dim", [width], "text_config.hidden_size")
    tokens = vision.num_tokens
    because = f"{vision.image_size} pixels in patches of {vision.patch_size}"
    for field in ("text_config", "vision_config"):
        top.section(field).require("num_image_tokens", [tokens], because)


def _image_token(top: Section) -> int:
    """The placeholder's id; no default, since transformers' own (256000) is ``<loc0000>``."""
    field = "image_token_id" if "image_token_id" in top.values else "image_token_index"
    value: Any = top.values.get(field)
    if type(value) is not int or not 0 <= value <= _MOST:
        raise top.wrong(field, "the id of <image>, 257152 in published files")
    return value


def config_values(
    config: PaliGemmaConfig, *, image_token: int, special: Special, dtype: str
) -> dict[str, Any]:
    """What ``config.json`` holds, in fields that transformers 4 and 5 both read.

    Args:
        config: our configuration.
        image_token: id of ``<image>`` in the tokenizer.
        special: ``bos_token_id``, ``eos_token_id`` and ``pad_token_id``.
        dtype: of the saved tensors, as torch prints it without "torch.".

    Raises:
        ConfigError: a decoder that neither of transformers' two families is.
    """
    vision, language = config.vision, config.language
    text = language_values(language, dtype=dtype, special=special)
    return {
        "architectures": ["PaliGemmaForConditionalGeneration"],
        "model_type": "paligemma",
        **special,
        "hidden_size": language.width,
        "projection_dim": language.width,
        "image_token_index": image_token,
        "vocab_size": language.vocab_size,
        "tie_word_embeddings": True,
        "torch_dtype": dtype,
        "text_config": {**text, "num_image_tokens": vision.num_tokens},
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": vision.width,
            "intermediate_size": vision.mlp_width,
            "num_hidden_layers": vision.depth,
            "num_attention_heads": vision.num_heads,
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "layer_norm_eps": vision.norm_eps,
            "hidden_act": "gelu_pytorch_tanh",
            "num_image_tokens": vision.num_tokens,
            "projection_dim": language.width,
            "vision_use_head": False,
            "torch_dtype": dtype,
        },
    }


def language_values(config: GemmaConfig, *, dtype: str, special: Special) -> dict[str, Any]:
    """The fields of a decoder, as ``text_config`` or at the top of a Gemma's own file.

    Args:
        config: our configuration.
        dtype: of the saved tensors, as torch prints it without "torch.".
        special: ``bos_token_id``, ``eos_token_id`` and ``pad_token_id``.

    Raises:
        ConfigError: a decoder that neither of transformers' two families is.
    """
    values = {
        "model_type": "gemma2" if config.is_gemma2 else "gemma",
        **special,
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_base,
        "max_position_embeddings": config.context,
        "vocab_size": config.vocab_size,
        "torch_dtype": dtype,
    }
    return values | _second_values(config)


def _second_values(config: GemmaConfig) -> dict[str, Any]:
    """Gemma 2's own fields; none for Gemma 1, which must then be one."""
    scale = config.head_dim**-0.5 if config.query_scale is None else config.query_scale
    if not config.is_gemma2:
        plain = math.isclose(scale, config.head_dim**-0.5)
        if not plain or any((config.attention_cap, config.final_cap, config.window)):
            raise ConfigError(
                "a decoder with Gemma 2's caps, window or query scale but without its norms behind "
                "attention and MLP is neither 'gemma' nor 'gemma2' in transformers: it cannot be "
                "written in its layout"
            )
        return {}
    scalar = scale**-2
    values: dict[str, Any] = {
        "query_pre_attn_scalar": (
            round(scalar) if math.isclose(scalar, round(scalar), rel_tol=1e-9) else scalar
        ),
        "attn_logit_softcapping": config.attention_cap,
        "final_logit_softcapping": config.final_cap,
        "sliding_window": config.window,
    }
    if config.window is None:  # transformers needs a number; this one never cuts
        values["sliding_window"] = config.context
        values["layer_types"] = ["full_attention"] * config.depth
    return values
