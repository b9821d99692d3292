"""What the shapes of an npz's arrays say of a model, and the arrays that it must then have.

No torch is loaded; see :mod:`~heliodor.checkpoints.expected`. Names are without ``params/``. The
layers of a tower or decoder are stacked in one array or lie one by one:

    img/Transformer/encoderblock/LayerNorm_0/scale [L D]     encoderblock_0/..., encoderblock_1/...
    llm/layers/mlp/linear [L F W]                            llm/layers/0/mlp/linear, ...

Sources: google-research/big_vision ``models/vit.py``, ``models/ppp/gemma.py``,
``models/proj/image_text/text_transformer.py``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from heliodor.checkpoints.expected import Numbers, Shape

_BLOCK = "img/Transformer/encoderblock"
_TEXT_BLOCK = "txt/Encoder_0/encoderblock"
_LAYER = "llm/layers"
_JOINT = "attn/qkv_einsum/w"
_ATTENTION = "MultiHeadDotProductAttention_0"
_PUBLISHED_SIZES = {(14, 27): 384}  # SigLIP's pictures, of whose last pixels no patch is made
_MOST = 2**24
_DEEPEST = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """What was found.

    Attributes:
        parts: the numbers of ``vision``, ``language`` and ``text``.
        arrays: shapes of all arrays that a model of these numbers has; empty where they cannot be
            told.
        missing: arrays that would tell a number and are not there.
        broken: arrays that would tell a number and cannot.
    """

    parts: dict[str, dict[str, Any]]
    arrays: dict[str, Shape] = field(default_factory=dict[str, Shape])
    missing: list[str] = field(default_factory=list[str])
    broken: list[str] = field(default_factory=list[str])


def npz_sizes(shapes: Mapping[str, Shape], family: str) -> Sizes:
    """The numbers of a "paligemma" or a "siglip", and its arrays."""
    seen = _Seen(shapes)
    second = "language" if family == "paligemma" else "text"
    parts = {
        "vision": _tower_numbers(seen, pair=family == "siglip"),
        second: _decoder_numbers(seen) if second == "language" else _text_numbers(seen),
    }
    if seen.missing or seen.broken:
        return Sizes(parts=parts, missing=seen.missing, broken=seen.broken)
    vision, other = parts["vision"], parts[second]
    found = dict(_image_arrays(seen, vision))
    if family == "paligemma":
        found |= {"img/head/kernel": (vision["width"], other["width"])}
        found |= {"img/head/bias": (other["width"],)} | dict(_decoder_arrays(seen, other))
    else:
        found |= dict(_pool_arrays(vision)) | dict(_text_arrays(seen, other))
    return Sizes(parts=parts, arrays=found)


@dataclass(slots=True)
class _Seen:
    """The shapes of a file, asked one by one; what cannot be answered is noted."""

    shapes: Mapping[str, Shape]
    missing: list[str] = field(default_factory=list[str])
    broken: list[str] = field(default_factory=list[str])

    def stacked(self, start: str, mark: str) -> bool:
        """Whether the layers of a tower lie in one array; ``mark`` stands before a number."""
        return not any(name.startswith(f"{start}{mark}0/") for name in self.shapes)

    def __call__(self, name: str, axes: int) -> Shape:
        """A shape; zeros where it is not there or of another rank."""
        shape = self.shapes.get(name)
        if shape is None:
            self.missing.append(name)
        elif len(shape) != axes or not all(0 < size <= _MOST for size in shape):
            self.broken.append(f"{name} is {list(shape)}, expected {axes} axes, none empty")
        else:
            return shape
        return (0,) * axes

    def layer(self, start: str, mark: str, name: str, axes: int) -> tuple[int, Shape]:
        """How many layers there are, and a shape in one of them."""
        if self.stacked(start, mark):
            depth, *rest = self(f"{start}/{name}", axes + 1)
            shape = tuple(rest)
        else:
            shape = self(f"{start}{mark}0/{name}", axes)
            single = re.compile(rf"{re.escape(start + mark)}\d+/{re.escape(name)}")
            depth = sum(single.fullmatch(other) is not None for other in self.shapes)
        if depth > _DEEPEST:
            self.broken.append(f"{start} has {depth} layers, at most {_DEEPEST} are read")
        return depth, shape


def _tower_numbers(seen: _Seen, *, pair: bool) -> dict[str, Any]:
    patch, _, _, width = seen("img/embedding/kernel", 4)
    grid = math.isqrt(seen("img/pos_embedding", 3)[1])
    depth, mlp = seen.layer(_BLOCK, "_", "MlpBlock_0/Dense_0/kernel", 2)
    _, query = seen.layer(_BLOCK, "_", f"{_ATTENTION}/query/kernel", 3)
    side = _PUBLISHED_SIZES.get((patch, grid)) if pair else None
    found = {"image_size": side or patch * grid, "patch_size": patch, "width": width}
    return {**found, "depth": depth, "num_heads": query[1], "mlp_width": mlp[1]}


def _text_numbers(seen: _Seen) -> dict[str, Any]:
    _, length, width = seen("txt/pos_embedding", 3)
    depth, mlp = seen.layer(_TEXT_BLOCK, "_", "MlpBlock_0/Dense_0/kernel", 2)
    _, query = seen.layer(_TEXT_BLOCK, "_", f"{_ATTENTION}/query/kernel", 3)
    return {
        "vocab_size": seen("txt/Embed_0/embedding", 2)[0],
        "length": length,
        "width": width,
        "depth": depth,
        "num_heads": query[1],
        "mlp_width": mlp[1],
        "out_width": seen("txt/head/kernel", 2)[1],
    }


def _decoder_numbers(seen: _Seen) -> dict[str, Any]:
    rows, width = seen("llm/embedder/input_embedding", 2)
    depth, mlp = seen.layer(_LAYER, "/", "mlp/linear", 2)
    if _joint(seen):
        _, both = seen.layer(_LAYER, "/", _JOINT, 4)
        heads, keys, head = both[1], both[1], both[3]
    else:
        _, query = seen.layer(_LAYER, "/", "attn/q_einsum/w", 3)
        _, pair = seen.layer(_LAYER, "/", "attn/kv_einsum/w", 4)
        heads, keys, head = query[0], pair[1], query[2]
    found = {"vocab_size": rows, "width": width, "depth": depth, "num_heads": heads}
    return {**found, "num_kv_heads": keys, "head_dim": head, "mlp_width": mlp[0]}


def _joint(seen: _Seen) -> bool:
    """Whether queries, keys and values share an array, as where there are as many of each."""
    return any(name.startswith("llm/") and name.endswith(_JOINT) for name in seen.shapes)


Arrays = Iterator[tuple[str, Shape]]


def _layered(seen: _Seen, start: str, mark: str, depth: int, layer: Mapping[str, Shape]) -> Arrays:
    """The arrays of all layers, stacked or one by one as in the file."""
    for name, shape in layer.items():
        if seen.stacked(start, mark):
            yield f"{start}/{name}", (depth, *shape)
        else:
            yield from ((f"{start}{mark}{number}/{name}", shape) for number in range(depth))


def _image_arrays(seen: _Seen, vision: Numbers) -> Arrays:
    width, patch = vision["width"], vision["patch_size"]
    yield "img/embedding/kernel", (patch, patch, 3, width)
    yield "img/embedding/bias", (width,)
    yield "img/pos_embedding", (1, (vision["image_size"] // patch) ** 2, width)
    yield from _norm("img/Transformer/encoder_norm", width)
    yield from _layered(seen, _BLOCK, "_", vision["depth"], dict(_block(vision)))


def _pool_arrays(vision: Numbers) -> Arrays:
    yield "img/MAPHead_0/probe", (1, 1, vision["width"])
    yield from _attention(f"img/MAPHead_0/{_ATTENTION}", vision)
    yield from _norm("img/MAPHead_0/LayerNorm_0", vision["width"])
    yield from _mlp("img/MAPHead_0/MlpBlock_0", vision)


def _text_arrays(seen: _Seen, text: Numbers) -> Arrays:
    width = text["width"]
    yield "txt/Embed_0/embedding", (text["vocab_size"], width)
    yield "txt/pos_embedding", (1, text["length"], width)
    yield from _layered(seen, _TEXT_BLOCK, "_", text["depth"], dict(_block(text)))
    yield from _norm("txt/Encoder_0/encoder_norm", width)
    yield from _dense("txt/head", width, text["out_width"])
    yield "t", (1,)
    yield "b", (1,)


def _block(tower: Numbers) -> Arrays:
    for number in (0, 1):
        yield from _norm(f"LayerNorm_{number}", tower["width"])
    yield from _attention(_ATTENTION, tower)
    yield from _mlp("MlpBlock_0", tower)


def _norm(name: str, width: int) -> Arrays:
    yield f"{name}/scale", (width,)
    yield f"{name}/bias", (width,)


def _dense(name: str, width: int, out: int) -> Arrays:
    yield f"{name}/kernel", (width, out)
    yield f"{name}/bias", (out,)


def _mlp(name: str, tower: Numbers) -> Arrays:
    yield from _dense(f"{name}/Dense_0", tower["width"], tower["mlp_width"])
    yield from _dense(f"{name}/Dense_1", tower["mlp_width"], tower["width"])


def _attention(name: str, tower: Numbers) -> Arrays:
    width, heads = tower["width"], tower["num_heads"]
    for part in ("query", "key", "value"):
        yield f"{name}/{part}/kernel", (width, heads, width // heads)
        yield f"{name}/{part}/bias", (heads, width // heads)
    yield f"{name}/out/kernel", (heads, width // heads, width)
    yield f"{name}/out/bias", (width,)


def _decoder_arrays(seen: _Seen, language: Numbers) -> Arrays:
    width, mlp, head = language["width"], language["mlp_width"], language["head_dim"]
    heads, keys = language["num_heads"], language["num_kv_heads"]
    yield "llm/embedder/input_embedding", (language["vocab_size"], width)
    yield "llm/final_norm/scale", (width,)
    layer: dict[str, Shape] = {
        "attn/attn_vec_einsum/w": (heads, head, width),
        "mlp/gating_einsum": (2, width, mlp),
        "mlp/linear": (mlp, width),
    }
    if _joint(seen):
        layer[_JOINT] = (3, heads, width, head)
    else:
        layer["attn/q_einsum/w"] = (heads, width, head)
        layer["attn/kv_einsum/w"] = (2, keys, width, head)
    sandwich = any("post_attention_norm" in name or "post_ffw_norm" in name for name in seen.shapes)
    for place in ("pre", "post") if sandwich else ("pre",):
        layer[f"{place}_attention_norm/scale"] = (width,)
        layer[f"{place}_ffw_norm/scale"] = (width,)
    yield from _layered(seen, _LAYER, "/", language["depth"], layer)
