"""``config.json`` of diffusers' ``LuminaNextDiT2DModel`` <-> our configuration.

Importing this module loads no torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from heliodor.checkpoints.files import read_json
from heliodor.checkpoints.section import CONFIG, Section
from heliodor.errors import ConfigError
from heliodor.models.nextdit_config import NextDiTConfig, mlp_width

CLASS = "LuminaNextDiT2DModel"
VERSION = "0.29.0"
"""The first release of diffusers that has the class."""

_OTHERS = {
    "Lumina2Transformer2DModel": "Lumina-Image 2.0, another network: not read",
    "LuminaFlagDiT2DModel": "Flag-DiT, an earlier network: not read",
}


def read_transformer_config(folder: Path) -> NextDiTConfig:
    """``config.json`` of a transformer -> our configuration.

    ``num_layers`` and ``num_kv_heads`` must be there: the class's own defaults, 32 and null, are
    not what the released model has.

    Raises:
        ConfigError: there is none, it is of another class, or a field cannot be used.
        FileFormatError: it is not JSON.
    """
    top = Section(read_json(folder / CONFIG), f"{folder / CONFIG}: ")
    kind: Any = top.values.get("_class_name")
    if kind != CLASS:
        told = _OTHERS.get(kind, "not read here") if isinstance(kind, str) else "not read here"
        raise top.wrong("_class_name", f"{CLASS!r} (this is {told})")
    if top.values.get("quantization_config") is not None:
        raise top.wrong("quantization_config", "none: load the unquantised checkpoint")
    width = top.count("hidden_size", 2304)
    num_heads = top.count("num_attention_heads", 32)
    if "num_kv_heads" not in top.values:
        raise top.wrong("num_kv_heads", "a number, or null for as many as query heads")
    multiplier = None
    if top.values.get("ffn_dim_multiplier") is not None:
        multiplier = top.number("ffn_dim_multiplier", 1.0)
    values: dict[str, Any] = {
        "in_channels": top.count("in_channels", 4),
        "patch_size": top.count("patch_size", 2, most=1024),
        "width": width,
        "depth": top.count("num_layers", most=1024),
        "num_heads": num_heads,
        "num_kv_heads": top.count("num_kv_heads", num_heads),
        "mlp_width": mlp_width(
            width, multiple_of=top.count("multiple_of", 256), multiplier=multiplier
        ),
        "caption_width": top.count("cross_attention_dim", 2048),
        "norm_eps": top.number("norm_eps", 1e-5),
        "qk_norm": _flag(top, "qk_norm"),
        "learns_sigma": _flag(top, "learn_sigma"),
        "sample_size": top.count("sample_size", 128),
    }
    try:
        return NextDiTConfig(**values)
    except ConfigError as error:
        raise ConfigError(f"{folder / CONFIG}: {error}") from error


def _flag(top: Section, name: str) -> bool:
    """True or false, true where it is left out, as in the class."""
    value: Any = top.values.get(name, True)
    if type(value) is not bool:
        raise top.wrong(name, "true or false")
    return value


def transformer_values(config: NextDiTConfig) -> dict[str, Any]:
    """What ``config.json`` holds.

    Raises:
        ConfigError: positions of another base than 10000, which diffusers cannot have.
    """
    if config.rope_base != 10000.0:
        raise ConfigError(
            f"rope_base is {config.rope_base}; diffusers' layout cannot say so, its positions have "
            "a base of 10000"
        )
    multiple, multiplier = 256, None
    if mlp_width(config.width) != config.mlp_width:  # one multiple of the width itself says it
        multiple, multiplier = config.mlp_width, config.mlp_width / int(8 * config.width / 3)
    return {
        "_class_name": CLASS,
        "_diffusers_version": VERSION,
        "cross_attention_dim": config.caption_width,
        "ffn_dim_multiplier": multiplier,
        "hidden_size": config.width,
        "in_channels": config.in_channels,
        "learn_sigma": config.learns_sigma,
        "multiple_of": multiple,
        "norm_eps": config.norm_eps,
        "num_attention_heads": config.num_heads,
        "num_kv_heads": config.num_kv_heads,
        "num_layers": config.depth,
        "patch_size": config.patch_size,
        "qk_norm": config.qk_norm,
        "sample_size": config.sample_size,
        "scaling_factor": 1.0,
    }
