"""``config.json`` of a SigLIP pair in transformers layout <-> our configuration.

The published files leave out what is the default of transformers' classes, which are the shapes of
SigLIP base at 224 pixels, so here every field has that default:

    both       hidden_size 768   intermediate_size 3072   num_hidden_layers 12
               num_attention_heads 12   layer_norm_eps 1e-6
    image      image_size 224    patch_size 16
    text       vocab_size 32000  max_position_embeddings 64   projection_size = hidden_size

A field that is there and wrong is an error, and a wrong default would show in the tensors' shapes;
only the number of heads would not, which is why a width that does not divide is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heliodor.checkpoints.config import CONFIG, Section
from heliodor.checkpoints.files import read_json
from heliodor.models.pair import SiglipPairConfig, SiglipTextConfig
from heliodor.models.siglip import SiglipVisionConfig

FAMILY = "siglip"
_MOST_PIXELS = 16384
_MOST_LAYERS = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class _Shape:
    """What both towers have."""

    width: int
    depth: int
    num_heads: int
    mlp_width: int
    norm_eps: float


def read_pair_config(folder: str | Path) -> SiglipPairConfig:
    """The configuration of a folder in transformers layout.

    Raises:
        ConfigError: no ``config.json``, another model family, or a field that is out of range or
            contradicts another.
        FileFormatError: ``config.json`` is not JSON.
    """
    path = Path(folder) / CONFIG
    top = Section(read_json(path), f"{path}: ")
    family: Any = top.values.get("model_type")
    if family != FAMILY:
        raise top.wrong(
            "model_type",
            "'siglip': a pair of towers (heliodor.load reads 'paligemma'; 'siglip2' with pictures "
            "of any shape is not supported)",
        )
    if top.values.get("quantization_config") is not None:
        raise top.wrong("quantization_config", "none: load the unquantised checkpoint")
    vision = _read_vision(_part(top, "vision_config"))
    text = _read_text(_part(top, "text_config"), vision.width)
    return SiglipPairConfig(vision=vision, text=text)


def _part(top: Section, field: str) -> Section:
    """A tower's section; one that is left out has nothing but defaults."""
    if top.values.get(field) is None:
        return Section({}, f"{top.where}{field}.")
    return top.section(field)


def _read_shape(section: Section) -> _Shape:
    section.require("hidden_act", ["gelu_pytorch_tanh"], "SigLIP's activation")
    section.require("attention_dropout", [0.0], "nothing is dropped when a model is used")
    width = section.count("hidden_size", 768)
    num_heads = section.count("num_attention_heads", 12)
    if width % num_heads:
        raise section.wrong("num_attention_heads", f"a divisor of hidden_size, {width}")
    return _Shape(
        width=width,
        depth=section.count("num_hidden_layers", 12, most=_MOST_LAYERS),
        num_heads=num_heads,
        mlp_width=section.count("intermediate_size", 3072),
        norm_eps=section.number("layer_norm_eps", 1e-6),
    )


def _read_vision(section: Section) -> SiglipVisionConfig:
    section.require("model_type", ["siglip_vision_model"], "the image tower of SigLIP")
    section.require("num_channels", [3], "pictures are RGB")
    section.require("vision_use_head", [True], "the pooling head makes the embedding")
    shape = _read_shape(section)
    patch_size = section.count("patch_size", 16, most=_MOST_PIXELS)
    image_size = section.count("image_size", 224, most=_MOST_PIXELS)
    if image_size < patch_size:
        raise section.wrong("image_size", f"at least patch_size, {patch_size}")
    return SiglipVisionConfig(
        image_size=image_size,
        patch_size=patch_size,
        width=shape.width,
        depth=shape.depth,
        num_heads=shape.num_heads,
        mlp_width=shape.mlp_width,
        norm_eps=shape.norm_eps,
    )


def _read_text(section: Section, out_width: int) -> SiglipTextConfig:
    section.require("model_type", ["siglip_text_model"], "the text tower of SigLIP")
    shape = _read_shape(section)
    if section.count("projection_size", shape.width) != out_width:
        because = (
            f"{out_width}, the image tower's hidden_size, whose embeddings it is compared with"
        )
        raise section.wrong("projection_size", because)
    return SiglipTextConfig(
        vocab_size=section.count("vocab_size", 32000),
        length=section.count("max_position_embeddings", 64),
        width=shape.width,
        depth=shape.depth,
        num_heads=shape.num_heads,
        mlp_width=shape.mlp_width,
        norm_eps=shape.norm_eps,
        out_width=None if out_width == shape.width else out_width,
    )


def pair_config_values(
    config: SiglipPairConfig, *, eos: int, pad: int, dtype: str
) -> dict[str, Any]:
    """What ``config.json`` holds: every field, so that no reader's defaults matter.

    Args:
        config: our configuration.
        eos: id that ends a text.
        pad: id that fills it up.
        dtype: of the saved tensors, as torch prints it without "torch.".
    """
    vision, text = config.vision, config.text
    return {
        "architectures": ["SiglipModel"],
        "model_type": FAMILY,
        "initializer_factor": 1.0,
        "torch_dtype": dtype,
        "text_config": {
            "model_type": "siglip_text_model",
            **_shape_values(text),
            "vocab_size": text.vocab_size,
            "max_position_embeddings": text.length,
            "projection_size": text.out_width or text.width,
            "bos_token_id": None,
            "eos_token_id": eos,
            "pad_token_id": pad,
            "torch_dtype": dtype,
        },
        "vision_config": {
            "model_type": "siglip_vision_model",
            **_shape_values(vision),
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "num_channels": 3,
            "vision_use_head": True,
            "torch_dtype": dtype,
        },
    }


def _shape_values(config: SiglipVisionConfig | SiglipTextConfig) -> dict[str, Any]:
    return {
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "layer_norm_eps": config.norm_eps,
        "hidden_act": "gelu_pytorch_tanh",
        "attention_dropout": 0.0,
    }
