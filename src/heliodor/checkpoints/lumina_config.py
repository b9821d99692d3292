"""The shape of a Next-DiT in the official layout, told from its tensors.

What they cannot say is what the released models have, or what a ``config.json`` of ours says.
Importing this module loads no torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

from heliodor.checkpoints.files import read_json
from heliodor.checkpoints.keymap import Shape
from heliodor.checkpoints.lumina_relatives import refuse_relatives
from heliodor.checkpoints.section import CONFIG, Section
from heliodor.errors import ConfigError, InputError, KeyMismatchError
from heliodor.models.nextdit_config import PUBLISHED, NextDiTConfig

LAST = "consolidated.00-of-01.safetensors"
AVERAGE = "consolidated_ema.00-of-01.safetensors"
Which = Literal["ema", "last"]
MODEL_TYPE = "lumina-next"
"""In a ``config.json`` of ours."""

_MOST = 2**24  # no size is anywhere near it; an empty tensor can claim any
_LAYER = re.compile(r"layers\.(\d{1,5})\.")


def find_consolidated(folder: Path, which: Which | None = None) -> Path | None:
    """The file of weights in a folder; None if the folder is not in the official layout.

    Args:
        folder: in which to look.
        which: the moving average or the last weights; None for the average where there is one.

    Raises:
        ConfigError: weights that are not read: pickled, or cut into pieces for several GPUs.
        InputError: the one asked for is not there.
    """
    names = sorted(entry.name for entry in folder.glob("consolidated*"))
    found = [name for name in (AVERAGE, LAST) if name in names]
    if which is not None and found:
        wanted = AVERAGE if which == "ema" else LAST
        if wanted not in found:
            raise InputError(f"{folder} has no {wanted}; it has {', '.join(found)}")
        return folder / wanted
    if found:
        return folder / found[0]
    if not names:
        return None
    if any(name.endswith(".pth") for name in names):
        raise ConfigError(
            f"{folder} holds {names[0]}, a pickle, which can run code when it is read and is never "
            f"read here; the published repositories hold {LAST} too"
        )
    raise ConfigError(
        f"{folder} holds {names[0]}, a part for one of several GPUs; expected one file, {LAST}"
    )


def read_lumina_config(shapes: Mapping[str, Shape], path: Path) -> NextDiTConfig:
    """The shape from the tensors' shapes and from a ``config.json`` of ours beside the file.

    Args:
        shapes: by official names.
        path: of the file.

    Raises:
        ConfigError: a related model that is another network, or a config that cannot be used.
        FileFormatError: a broken config.
        KeyMismatchError: tensors that tell the shape are missing or contradict one another.
    """
    refuse_relatives(shapes, path)
    said = _said(path.parent / CONFIG)
    patch = said.get("patch_size", 2)
    try:
        width, inputs = shapes["x_embedder.weight"]
        outputs = shapes["final_layer.linear.weight"][0]
        num_heads = shapes["layers.0.attention.gate"][0]
        narrow = shapes["layers.0.attention.wk.weight"][0]
        caption_width = shapes["layers.0.attention.wk_y.weight"][1]
        inner = shapes["layers.0.feed_forward.w1.weight"][0]
        head_dim = width // num_heads
        if max(width, inputs, outputs, narrow, caption_width, inner) > _MOST:
            raise ValueError("a size that no network has")
        found: dict[str, Any] = {
            "in_channels": inputs // patch**2,
            "width": width,
            "depth": len({int(m[1]) for n in shapes if (m := _LAYER.match(n)) is not None}),
            "num_heads": num_heads,
            "num_kv_heads": narrow // head_dim,
            "mlp_width": inner,
            "caption_width": caption_width,
            "qk_norm": "layers.0.attention.q_norm.weight" in shapes,
            "learns_sigma": outputs == 2 * inputs,
        }
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise KeyMismatchError(_not_official(shapes, path)) from error
    wrong = {n: v for n, v in said.items() if n in found and found[n] != v}
    if wrong:
        told = ", ".join(f"{name} {value}" for name, value in wrong.items())
        raise ConfigError(
            f"{path.parent / CONFIG} says {told}; the tensors of {path.name} say "
            f"{', '.join(f'{name} {found[name]}' for name in wrong)}: is it another checkpoint's?"
        )
    try:
        config = NextDiTConfig(**(said | found))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return config if said else _of_published_depth(config)


def _of_published_depth(config: NextDiTConfig) -> NextDiTConfig:
    """As many layers as the released model has: a file that lacks some shall not pass for less."""
    for known in PUBLISHED.values():
        if replace(config, depth=known.depth) == known:
            return known
    return config


def _said(path: Path) -> dict[str, Any]:
    """What a ``config.json`` of ours says; nothing where there is none, or another's."""
    if not path.is_file():
        return {}
    section = Section(read_json(path), f"{path}: ")
    if section.values.get("model_type") != MODEL_TYPE:
        return {}
    known = {field.name: field.type for field in fields(NextDiTConfig)}
    unknown = sorted(section.values.keys() - known.keys() - {"model_type"})
    if unknown:
        raise section.wrong(unknown[0], f"nothing else than {', '.join(known)}")
    return {name: _value(section, name, str(kind)) for name, kind in known.items()}


def _value(section: Section, name: str, kind: str) -> Any:
    if kind == "int":
        return section.count(name)
    if kind == "float":
        return section.number(name, 0.0) or _missing(section, name)
    if type(section.values.get(name)) is not bool:
        raise section.wrong(name, "true or false")
    return section.values[name]


def _missing(section: Section, name: str) -> Any:
    raise section.wrong(name, "a number above 0")


def _not_official(shapes: Mapping[str, Shape], path: Path) -> str:
    told = ("x_embedder.weight", "final_layer.linear.weight", "layers.0.attention.gate")
    lacking = [name for name in told if name not in shapes]
    listed = ", ".join(list(shapes)[:6])
    return (
        f"{path} holds {len(shapes)} tensors ({listed}, ...), which are not those of Next-DiT in "
        f"the official layout: {', '.join(lacking) or 'their shapes'} "
        f"{'is missing' if lacking else 'contradict one another'}"
    )
